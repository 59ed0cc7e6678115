//! `rpc dead QUEUE drop`.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use rpc_runtime::discovery::dead_queue;
use tokio::sync::oneshot;

use super::report::{MAX_LISTED, Report};
use super::selection::Selection;
use crate::dead_letters::find::find;
use crate::dead_letters::scan::{Scan, ctrl_c};
use crate::failure::{Failure, Outcome};
use crate::options::Options;
use crate::output::Output;
use crate::units;

/// How long to wait for an answer. The letters are held meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Deletes letters for good.
///
/// Asks first, unless --yes is given.
#[derive(Debug, Args)]
pub(super) struct DropLetters {
    #[command(flatten)]
    selection: Selection,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl DropLetters {
    pub(super) async fn run(
        &self,
        queue: &str,
        options: &Options,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        self.selection.check()?;
        let must_ask = !self.yes && !self.selection.dry_run;
        if must_ask && (output.json || !io::stdin().is_terminal()) {
            return Err(Failure::usage(
                "letters are only deleted after a confirmation",
                "confirm it with `--yes`, or see with `--dry-run` what would be deleted",
            ));
        }
        let mut scan = Scan::open(queue, self.selection.hold.limit(), ctrl_c(), options).await?;
        let mut report = Report::new("dropped", self.selection.dry_run);
        let dropped = self.drop_selected(queue, &mut scan, &mut report, output).await;
        report.finish(queue, dropped, scan, output).await
    }

    /// Finds the selected letters, asks for a confirmation unless `--yes` is given, and deletes
    /// them. A dry run only adds them to the report.
    async fn drop_selected(
        &self,
        queue: &str,
        scan: &mut Scan,
        report: &mut Report,
        output: &Output,
    ) -> Result<(), Failure> {
        let selected = self.find_selected(queue, scan).await?;
        if self.selection.dry_run {
            // Also those that were found until Ctrl-C.
            selected.iter().for_each(|(id, _)| report.add_done(id));
            return Ok(());
        }
        // Ctrl-C during the search deletes nothing.
        if selected.is_empty() || scan.is_interrupted() {
            return Ok(());
        }
        if self.yes || confirm(queue, selected.len(), scan, output).await {
            for (id, tag) in selected {
                scan.ack(tag).await?;
                report.add_done(&id);
            }
        }
        Ok(())
    }

    /// Returns the ids and tags of the selected letters, which are held. With `--all`, ids that the
    /// report does not list are empty, to save memory.
    async fn find_selected(&self, queue: &str, scan: &mut Scan) -> Result<Vec<(String, u64)>, Failure> {
        if !self.selection.all {
            let needs_bodies = false;
            let found = find(scan, queue, &self.selection.ids, needs_bodies).await?;
            let found = found.into_iter();
            return Ok(found.map(|letter| (letter.id, letter.message.tag)).collect());
        }
        let mut selected = Vec::new();
        while let Some(letter) = self.selection.next(scan, selected.len() as u64).await? {
            let is_listed = selected.len() < MAX_LISTED;
            let id = if is_listed { letter.id } else { String::new() };
            selected.push((id, letter.message.tag));
        }
        Ok(selected)
    }
}

/// Asks whether to delete this many letters. Ctrl-C means no, and so does no answer within
/// [`ANSWER_LIMIT`].
async fn confirm(queue: &str, letters: usize, scan: &mut Scan, output: &Output) -> bool {
    output.note(&format!(
        "delete {} of {}? [y/N]",
        units::count(letters, "letter"),
        dead_queue(queue)
    ));
    let (answer, answered) = oneshot::channel();
    // On a thread of its own, because the process must end without waiting for a line.
    std::thread::spawn(move || {
        let mut line = String::new();
        if io::stdin().read_line(&mut line).is_ok() {
            // An error means that nobody waits any more.
            let _ = answer.send(line);
        }
    });
    tokio::select! {
        line = answered => line.is_ok_and(|line| is_yes(&line)),
        () = scan.wait_interrupted() => false,
        () = tokio::time::sleep(ANSWER_LIMIT) => false,
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_means_yes() {
        for (answer, means_yes) in [("y\n", true), (" YES \n", true), ("\n", false), ("yep\n", false)] {
            assert_eq!(is_yes(answer), means_yes, "{answer}");
        }
    }
}
