//! `rpc dead QUEUE list`.

use std::time::SystemTime;

use clap::Args;
use rpc_runtime::discovery::dead_queue;
use serde_json::{Value, json};

use super::filter::Filter;
use super::hold::Hold;
use crate::dead_letters::letter::Facts;
use crate::dead_letters::scan::{Scan, ctrl_c};
use crate::failure::{Failure, Outcome};
use crate::options::Options;
use crate::output::Output;
use crate::table::{Column, Table};
use crate::text::one_line;
use crate::units;

/// How much of a letter's text a cell shows, in characters.
const MAX_CELL: usize = 100;

/// Lists the letters, the oldest first.
///
/// FAILED is how long ago a letter failed last, and ERROR the first line of its error; `-` if the
/// letter does not say.
#[derive(Debug, Args)]
pub(super) struct ListLetters {
    #[command(flatten)]
    filter: Filter,

    /// List at most this many letters.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    #[command(flatten)]
    hold: Hold,
}

impl ListLetters {
    pub(super) async fn run(
        &self,
        queue: &str,
        options: &Options,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        let now = SystemTime::now();
        let mut scan = Scan::open(queue, self.hold.limit(), ctrl_c(), options).await?;
        let letters = self.letters(&mut scan, now).await;
        let (left, is_stopped) = (scan.left, scan.stop.is_some());
        let (notes, finished) = scan.finish().await;
        output.notes(&notes);
        let letters = letters?;
        finished?;
        if output.json {
            output.value(&json_of(queue, &letters, left))?;
        } else {
            output.text(&table(&letters, now))?;
            let is_at_limit = letters.len() == self.limit as usize;
            if is_at_limit && left > 0 {
                output.note(&format!(
                    "{} more in {}; `--limit` lists more",
                    units::count(left as usize, "letter"),
                    dead_queue(queue)
                ));
            }
        }
        Ok(if is_stopped {
            Outcome::Negative
        } else {
            Outcome::Done
        })
    }

    /// Returns the ids and facts of the first letters that the filter selects, at most `--limit`.
    async fn letters(&self, scan: &mut Scan, now: SystemTime) -> Result<Vec<(String, Facts)>, Failure> {
        let mut letters = Vec::new();
        while letters.len() < self.limit as usize
            && let Some(letter) = scan.next().await?
        {
            if self.filter.selects(&letter.facts, now) {
                letters.push((letter.id, letter.facts));
            }
        }
        Ok(letters)
    }
}

fn table(letters: &[(String, Facts)], now: SystemTime) -> String {
    use Column::{Left, Right};
    let mut table = Table::new([
        Left("ID"),
        Left("METHOD"),
        Left("REASON"),
        Right("ATTEMPTS"),
        Right("FAILED"),
        Right("SIZE"),
        Left("ERROR"),
    ]);
    for (id, facts) in letters {
        let text = |text: &Option<String>| text.as_deref().map_or_else(dash, first_line);
        table.row([
            id.clone(),
            text(&facts.method),
            text(&facts.reason),
            facts.attempts.map_or_else(dash, |attempts| attempts.to_string()),
            facts.age(now).map_or_else(dash, units::show_age),
            units::show_size(facts.size),
            text(&facts.error),
        ]);
    }
    table.render()
}

fn dash() -> String {
    "-".to_owned()
}

/// The first line of a text, safe to print. If it is longer than [`MAX_CELL`], it is cut and ends
/// with `…`.
fn first_line(text: &str) -> String {
    let line = one_line(text.lines().next().unwrap_or_default());
    match line.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Returns the letters as JSON. `left` is how many letters were not looked at.
fn json_of(queue: &str, letters: &[(String, Facts)], left: u32) -> Value {
    let letters = letters.iter().map(|(id, facts)| facts.json(id));
    json!({"queue": queue, "letters": letters.collect::<Vec<_>>(), "more": left})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::letter::time_at;

    #[test]
    fn a_letter_is_a_line() {
        let facts = Facts {
            method: Some("send".into()),
            reason: Some("error".into()),
            error: Some("no \u{1b}[2Jroute\nmore".into()),
            attempts: Some(3),
            last_failure: Some(1000),
            size: 2048,
            ..Facts::default()
        };
        let letters = [("ab".to_owned(), facts), ("cd".to_owned(), Facts::default())];
        let now = time_at(64_000).unwrap();
        assert_eq!(
            table(&letters, now),
            "\
ID  METHOD  REASON  ATTEMPTS  FAILED     SIZE  ERROR
ab  send    error          3     63s  2.0 KiB  no \\u001b[2Jroute
cd  -       -              -       -      0 B  -"
        );
        assert_eq!(first_line(&"x".repeat(200)).chars().count(), MAX_CELL + 1);
        let json = json_of("mail", &letters, 7);
        assert_eq!(json["letters"][0]["error"], "no \u{1b}[2Jroute\nmore");
        assert_eq!(json["more"], 7);
    }
}
