//! What `retry` and `drop` did.

use rpc_runtime::discovery::dead_queue;
use serde_json::{Value, json};

use crate::dead_letters::scan::Scan;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::text::one_line;
use crate::units;

/// How many letters a report lists at most: of those retried or dropped, and of those that stayed.
pub(super) const MAX_LISTED: usize = 1000;

#[derive(Debug)]
pub(super) struct Report {
    /// `retried` or `dropped`.
    verb: &'static str,
    is_dry_run: bool,
    /// How many letters were retried or dropped, or would be without `--dry-run`.
    pub(super) done: u64,
    /// The ids of the first of them.
    ids: Vec<String>,
    /// How many of the selected letters could not be retried or dropped, and stayed in the queue.
    stayed: u64,
    /// The ids of the first of them, and why they stayed.
    reasons: Vec<(String, String)>,
}

impl Report {
    pub(super) fn new(verb: &'static str, is_dry_run: bool) -> Self {
        Self {
            verb,
            is_dry_run,
            done: 0,
            ids: Vec::new(),
            stayed: 0,
            reasons: Vec::new(),
        }
    }

    /// Adds a letter that was retried or dropped, or would be without `--dry-run`.
    pub(super) fn add_done(&mut self, id: &str) {
        self.done += 1;
        if self.ids.len() < MAX_LISTED {
            self.ids.push(id.to_owned());
        }
    }

    pub(super) fn add_stayed(&mut self, id: &str, reason: impl Into<String>) {
        self.stayed += 1;
        if self.reasons.len() < MAX_LISTED {
            self.reasons.push((id.to_owned(), reason.into()));
        }
    }

    /// Puts the held letters back, and prints the report, unless it is empty and `result`, that of
    /// the command's work, is a failure. Returns `Negative` if letters stayed, or if the scan
    /// stopped early.
    pub(super) async fn finish(
        self,
        queue: &str,
        result: Result<(), Failure>,
        scan: Scan,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        let is_stopped = scan.stop.is_some();
        let (notes, finished) = scan.finish().await;
        output.notes(&notes);
        let is_empty = self.done + self.stayed == 0;
        let printed = if is_empty && result.is_err() {
            Ok(())
        } else {
            self.print(queue, output)
        };
        // A closed output must not hide that something failed, so errors of printing come last.
        result.and(finished).and(printed)?;
        Ok(if is_stopped {
            Outcome::Negative
        } else {
            self.outcome()
        })
    }

    fn outcome(&self) -> Outcome {
        match self.stayed {
            0 => Outcome::Done,
            _ => Outcome::Negative,
        }
    }

    fn print(&self, queue: &str, output: &Output) -> Result<(), Failure> {
        if output.json {
            output.value(&self.json(queue))
        } else {
            output.text(&self.text(queue))
        }
    }

    fn text(&self, queue: &str) -> String {
        let letters = |count: u64| units::count(usize::try_from(count).unwrap_or(usize::MAX), "letter");
        let would = if self.is_dry_run { "would be " } else { "" };
        let mut lines = Vec::new();
        if self.is_dry_run {
            lines.extend(self.ids.iter().cloned());
        }
        let stayed = self.reasons.iter();
        lines.extend(stayed.map(|(id, reason)| one_line(&format!("{id} stays: {reason}"))));
        lines.push(format!("{} {would}{}", letters(self.done), self.verb));
        if self.stayed > 0 {
            lines.push(format!(
                "{} {would}left in {}",
                letters(self.stayed),
                dead_queue(queue)
            ));
        }
        lines.join("\n")
    }

    fn json(&self, queue: &str) -> Value {
        let stayed = self.reasons.iter();
        let stayed = stayed.map(|(id, reason)| json!({"id": id, "reason": reason}));
        json!({
            "queue": queue,
            "dry_run": self.is_dry_run,
            self.verb: self.done,
            "ids": self.ids,
            "left": self.stayed,
            "reasons": stayed.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_all_and_lists_the_first() {
        let mut report = Report::new("retried", false);
        assert_eq!(report.text("mail"), "0 letters retried");
        for number in 0..1500 {
            report.add_done(&number.to_string());
        }
        assert_eq!(report.text("mail"), "1500 letters retried");
        assert_eq!(report.json("mail")["ids"].as_array().unwrap().len(), 1000);
        assert_eq!(report.outcome(), Outcome::Done);
        report.add_stayed("ab", "its queue is\n\u{1b}full");
        assert_eq!(
            report.text("mail"),
            "ab stays: its queue is\\n\\u001bfull\n1500 letters retried\n1 letter left in mail.dead"
        );
        assert_eq!(report.outcome(), Outcome::Negative);
    }

    #[test]
    fn a_dry_run_lists_the_ids() {
        let mut report = Report::new("dropped", true);
        report.add_done("ab");
        assert_eq!(report.text("mail"), "ab\n1 letter would be dropped");
        assert_eq!(report.json("mail")["dropped"], 1);
    }
}
