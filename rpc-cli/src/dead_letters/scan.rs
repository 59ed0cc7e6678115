//! Looks at the letters of a dead-letter queue one after the other, and holds them meanwhile.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use rpc_runtime::__tools::{QueueReader, TakenMessage};
use rpc_runtime::BrokerError;
use rpc_runtime::discovery::dead_queue;
use tokio::time::Instant;

use super::letter::{Facts, Letter, came_back_to_quorum_queue, id_number, return_count};
use super::wanted::Ids;
use crate::connection;
use crate::failure::Failure;
use crate::options::Options;
use crate::units;

/// RabbitMQ 4's default limit: a quorum queue drops a letter that came back more often.
const DEFAULT_DELIVERY_LIMIT: u64 = 20;

/// How long to take letters only to keep the order of a quorum queue.
const ORDER_LIMIT: Duration = Duration::from_secs(5);

/// A pass over a dead-letter queue. It takes as many letters as were ready at the start, in their
/// order, so letters that arrive later are left out: retried jobs may fail again at once.
pub(crate) struct Scan {
    pub(crate) reader: QueueReader,
    /// The queue that the jobs were sent to.
    queue: String,
    ids: Ids,
    /// How many of these letters were not taken yet, as far as is known.
    pub(crate) left: u32,
    limit: HoldLimit,
    /// When the time limit ends. `None` while no letter is held.
    deadline: Option<Instant>,
    interrupted: Interrupted,
    /// Why the scan stopped before the end. `None` if it did not.
    pub(crate) stop: Option<Stop>,
    /// The largest number of times that a letter was delivered and returned to the queue.
    most_returns: u64,
    /// Whether the letter taken last had been returned to a quorum queue before. If the next one
    /// was, too, it would overtake those that are held.
    next_may_overtake: bool,
}

/// Completes when the user wants the process to end.
pub(crate) type Interrupted = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Returns a future that completes at Ctrl-C. Before its first poll, Ctrl-C ends the process.
pub(crate) fn ctrl_c() -> Interrupted {
    Box::pin(async {
        // If the system cannot report Ctrl-C, it counts as pressed.
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// How long letters may be held. Those that were not looked at by then are left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldLimit {
    pub(crate) time: Duration,
    /// Tells the user how to hold letters longer.
    pub(crate) advice: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// By the user, for instance with Ctrl-C.
    Interrupted,
    TimeUp,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupted => "the command was interrupted",
            Self::TimeUp => "the time limit for holding letters was up",
        })
    }
}

impl Scan {
    /// Connects, and opens the dead-letter queue of a queue.
    pub(crate) async fn open(
        queue: &str,
        limit: HoldLimit,
        interrupted: Interrupted,
        options: &Options,
    ) -> Result<Self, Failure> {
        let dead = dead_queue(queue);
        let Some((reader, left)) = connection::open_queue(options, &dead).await? else {
            let hint = match queue.strip_suffix(".dead") {
                Some(name) => format!("name the queue that the jobs are sent to: `rpc dead {name} ...`"),
                None => "a worker whose service has jobs declares it when it starts".to_owned(),
            };
            return Err(Failure::NotFound {
                message: format!("there is no queue {dead}"),
                hint,
            });
        };
        Ok(Self {
            reader,
            queue: queue.to_owned(),
            ids: Ids::default(),
            left,
            limit,
            deadline: None,
            interrupted,
            stop: None,
            most_returns: 0,
            next_may_overtake: false,
        })
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self.stop, Some(Stop::Interrupted))
    }

    /// Takes the next letter and holds it. Returns `None` at the end, or once the scan has to stop.
    pub(crate) async fn next(&mut self) -> Result<Option<Letter>, Failure> {
        if self.left == 0 || self.check_stop().is_some() {
            return Ok(None);
        }
        let Some(message) = self.take().await? else {
            // Somebody else has taken the rest.
            self.left = 0;
            return Ok(None);
        };
        self.left -= 1;
        let facts = Facts::read(&message);
        let id = self.ids.assign(id_number(&message));
        Ok(Some(Letter { id, message, facts }))
    }

    /// Takes the next message. The time limit begins with the first one that is held.
    async fn take(&mut self) -> Result<Option<TakenMessage>, Failure> {
        let taken = self.reader.take().await?;
        if let Some(message) = &taken {
            let time = self.limit.time;
            self.deadline.get_or_insert_with(|| Instant::now() + time);
            self.most_returns = self.most_returns.max(return_count(message));
        }
        self.next_may_overtake = taken.as_ref().is_some_and(came_back_to_quorum_queue);
        Ok(taken)
    }

    /// Acknowledges a letter, which removes it. If no other one is held, the time limit begins anew
    /// with the next.
    pub(crate) async fn ack(&mut self, tag: u64) -> Result<(), BrokerError> {
        self.reader.ack(tag).await?;
        if !self.reader.holds_any() {
            self.deadline = None;
        }
        Ok(())
    }

    /// Takes the other letters that came back to a quorum queue earlier. It delivers them in the
    /// order in which they came back, so those that are not taken would overtake those that are
    /// held. Ends early once the scan has to stop, or after [`ORDER_LIMIT`]: a quorum queue takes
    /// the longer for a letter the more are held.
    async fn keep_order(&mut self) -> Result<(), Failure> {
        let give_up = Instant::now() + ORDER_LIMIT;
        while self.next_may_overtake
            && self.reader.holds_any()
            && Instant::now() < give_up
            && self.check_stop().is_none()
        {
            // `release` puts it back with the others.
            self.take().await?;
        }
        Ok(())
    }

    /// Returns how the user can hold letters longer.
    pub(crate) fn advice(&self) -> &'static str {
        self.limit.advice
    }

    /// Waits for an interruption; returns at once if there was one before. Cancel safe.
    pub(crate) async fn wait_interrupted(&mut self) {
        if self.stop != Some(Stop::Interrupted) {
            self.interrupted.as_mut().await;
            self.stop = Some(Stop::Interrupted);
        }
    }

    /// Returns why the scan has to stop. `None` if it may go on. A scan that has stopped stays so.
    pub(crate) fn check_stop(&mut self) -> Option<Stop> {
        if self.stop.is_none() {
            if self.interrupted.as_mut().now_or_never().is_some() {
                self.stop = Some(Stop::Interrupted);
            } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.stop = Some(Stop::TimeUp);
            }
        }
        self.stop
    }

    /// Puts the held letters back and closes the connection. Returns notes about what the user
    /// should know, even if it fails. Must be called after a failure of the scan, too.
    pub(crate) async fn finish(mut self) -> (Vec<String>, Result<(), Failure>) {
        let mut notes: Vec<_> = self.stop.map(|stop| self.stop_note(stop)).into_iter().collect();
        let ordered = self.keep_order().await;
        let released = self.reader.release().await;
        // The user should know when half of the default limit is used up. A letter that came back
        // more often than the whole limit shows that the queue does not have it.
        let is_near_default_limit =
            (DEFAULT_DELIVERY_LIMIT / 2..=DEFAULT_DELIVERY_LIMIT).contains(&self.most_returns);
        // A queue with the properties that a worker declares has a limit that is never reached.
        if is_near_default_limit && !matches!(self.reader.is_dead_queue_of(&self.queue).await, Ok(Some(true)))
        {
            notes.push(self.limit_note());
        }
        self.reader.close().await;
        (notes, ordered.and(released.map_err(Failure::from)))
    }

    fn stop_note(&self, stop: Stop) -> String {
        let left = units::count(self.left as usize, "letter");
        match stop {
            Stop::Interrupted => format!("interrupted: {left} not looked at"),
            Stop::TimeUp => format!(
                "the letters were held for {}: {left} not looked at; {}",
                humantime::format_duration(self.limit.time),
                self.limit.advice
            ),
        }
    }

    fn limit_note(&self) -> String {
        format!(
            "letters of {} were returned to it up to {} times: if it is a quorum queue without an `x-delivery-limit`, RabbitMQ 4 drops \
             a letter after {DEFAULT_DELIVERY_LIMIT}; see docs/jobs.md",
            dead_queue(&self.queue),
            self.most_returns
        )
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("reader", &self.reader)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
