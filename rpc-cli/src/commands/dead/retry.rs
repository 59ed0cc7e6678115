//! `rpc dead QUEUE retry`.

use clap::Args;
use indicatif::ProgressBar;
use rpc_runtime::__tools::CopyOutcome;
use rpc_runtime::BrokerError;

use super::headers::of_retry;
use super::letter::{Facts, Letter};
use super::report::Report;
use super::scan::Scan;
use super::selection::{Selection, find};
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
        let mut scan = Scan::open(queue, self.selection.hold, options).await?;
        let mut run = Retry {
            queue,
            report: Report::new("retried", self.selection.dry_run),
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
    bar: ProgressBar,
}

impl Retry<'_> {
    async fn retry_selected(&mut self, selection: &Selection, scan: &mut Scan) -> Result<(), Failure> {
        if !selection.all {
            let needs_bodies = true;
            for letter in find(scan, self.queue, &selection.ids, needs_bodies).await? {
                if let Some(stop) = scan.check_stop() {
                    self.report.add_stayed(&letter.id, stop.to_string());
                } else {
                    self.retry_one(letter, selection.dry_run, scan).await?;
                }
            }
            return Ok(());
        }
        let all = u64::from(scan.left);
        while let Some(letter) = selection.next(scan, self.report.done).await? {
            self.retry_one(letter, selection.dry_run, scan).await?;
            self.bar.set_position(all - u64::from(scan.left));
        }
        Ok(())
    }

    /// Retries a letter, or reports why it stays. An error ends the command.
    async fn retry_one(&mut self, letter: Letter, is_dry_run: bool, scan: &mut Scan) -> Result<(), Failure> {
        let Letter { id, message, facts } = letter;
        if let Some(reason) = self.obstacle(&facts, message.malformed.as_deref()) {
            self.report.add_stayed(&id, reason);
            return Ok(());
        }
        if is_dry_run {
            self.report.add_done(&id);
            return Ok(());
        }
        let copy = of_retry(&message.properties);
        let target = facts.target(self.queue);
        match scan.reader.publish(&target, copy, message.body).await {
            Ok(CopyOutcome::Confirmed) => {
                let acked = scan.ack(message.tag).await;
                acked.map_err(|error| maybe_retried(&id, error))?;
                self.report.add_done(&id);
                Ok(())
            }
            Ok(CopyOutcome::Invalid(cause)) => {
                self.report.add_stayed(&id, cause.to_string());
                Ok(())
            }
            Ok(CopyOutcome::Unroutable) => Err(Failure::NotFound {
                message: format!("there is no queue {target}: the other letters stay"),
                hint: "start a worker, which declares it".to_owned(),
            }),
            Ok(CopyOutcome::Refused) => Err(Failure::Stay {
                message: format!("the queue {target} refuses messages: the other letters stay"),
                hint: "it may be full: try again later".to_owned(),
            }),
            Err(error @ (BrokerError::Unresponsive { .. } | BrokerError::Lost { .. })) => {
                Err(maybe_retried(&id, error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Why a letter cannot be retried. `None` if it can.
    fn obstacle(&self, facts: &Facts, malformed: Option<&str>) -> Option<String> {
        if let Some(reason) = malformed {
            return Some(format!("it cannot be copied: {reason}"));
        }
        let origin = facts.origin.as_ref().filter(|_| !facts.is_from(self.queue))?;
        Some(format!("it comes from the queue {origin:?}"))
    }
}

/// The failure of a retry whose outcome is not known.
fn maybe_retried(id: &str, source: BrokerError) -> Failure {
    Failure::MaybeRetried {
        id: id.to_owned(),
        source,
    }
}
