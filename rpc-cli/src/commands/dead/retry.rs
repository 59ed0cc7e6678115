//! `rpc dead QUEUE retry`.

use clap::Args;
use indicatif::ProgressBar;

use super::report::Report;
use super::selection::Selection;
use crate::dead_letters::find::find;
use crate::dead_letters::letter::Letter;
use crate::dead_letters::retry::{Retried, obstacle, retry};
use crate::dead_letters::scan::{Scan, ctrl_c};
use crate::failure::{Failure, Outcome};
use crate::options::Options;
use crate::output::Output;
use crate::progress::progress_bar;

/// Sends letters to their queue again, as new jobs.
///
/// A letter is removed once the broker has confirmed its copy in QUEUE, so none is lost. If `rpc`
/// is killed or loses its connection, one letter may be in both queues. Letters that die again
/// meanwhile are left out. The exit code is 1 if a letter could not be retried.
#[derive(Debug, Args)]
pub(super) struct RetryLetters {
    #[command(flatten)]
    selection: Selection,
}

impl RetryLetters {
    pub(super) async fn run(
        &self,
        queue: &str,
        options: &Options,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        self.selection.check()?;
        let mut scan = Scan::open(queue, self.selection.hold.limit(), ctrl_c(), options).await?;
        let mut run = Retry {
            queue,
            report: Report::new("retried", self.selection.dry_run),
            // A few letters take no time worth a bar.
            bar: match scan.left {
                0..100 => ProgressBar::hidden(),
                many => progress_bar(output, many.into()),
            },
        };
        let retried = run.retry_selected(&self.selection, &mut scan).await;
        run.bar.finish_and_clear();
        run.report.finish(queue, retried, scan, output).await
    }
}

struct Retry<'a> {
    queue: &'a str,
    report: Report,
    /// Only `--all` moves it.
    bar: ProgressBar,
}

impl Retry<'_> {
    /// Retries the selected letters: with `--all`, each as soon as it is taken; with ids, none
    /// before all are found.
    async fn retry_selected(&mut self, selection: &Selection, scan: &mut Scan) -> Result<(), Failure> {
        if selection.all {
            let ready = u64::from(scan.left);
            while let Some(letter) = selection.next(scan, self.report.done).await? {
                self.retry_one(letter, selection.dry_run, scan).await?;
                self.bar.set_position(ready - u64::from(scan.left));
            }
            return Ok(());
        }
        let needs_bodies = true;
        for letter in find(scan, self.queue, &selection.ids, needs_bodies).await? {
            if let Some(stop) = scan.check_stop() {
                self.report.add_stayed(&letter.id, stop.to_string());
            } else {
                self.retry_one(letter, selection.dry_run, scan).await?;
            }
        }
        Ok(())
    }

    /// Retries a letter, unless this is a dry run, and reports it as retried or why it stays. An
    /// error ends the command.
    async fn retry_one(&mut self, letter: Letter, is_dry_run: bool, scan: &mut Scan) -> Result<(), Failure> {
        let id = letter.id.clone();
        let retried = if is_dry_run {
            obstacle(&letter, self.queue).map_or(Retried::Sent, Retried::Stays)
        } else {
            retry(letter, self.queue, scan).await?
        };
        match retried {
            Retried::Sent => self.report.add_done(&id),
            Retried::Stays(reason) => self.report.add_stayed(&id, reason),
        }
        Ok(())
    }
}
