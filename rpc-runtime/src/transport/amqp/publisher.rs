//! Publishing: one task a channel, so that messages and confirms are counted in the same order.
//!
//! lapin takes a confirm's number and queues the message's frames under two locks: two tasks that publish at once can
//! swap their confirms. Both happen when the publish is first polled, so one task polls each in turn, once, and
//! then waits for all of them together; their frames still leave in one write.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::Confirmation;
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channel::{OpenChannel, Tasks};
use super::confirms::{Confirm, Confirms, Decided, Key};
use super::connection::ConnectionState;
use super::refusals::Refusals;
use super::{broker_error, convert, short};
use crate::error::{BrokerError, Cause};
use crate::protocol::ShortStr;
use crate::transport::{Outgoing, Published, Publisher};

/// How many messages may wait for the publishing task; who sends more waits.
const INBOX: usize = 256;

/// How many messages may wait for their confirm.
const MAX_UNCONFIRMED: usize = 4096;

/// How many bytes of them: as much as a broker that takes its time makes a handle hold. One more message may come on top.
const MAX_UNCONFIRMED_BYTES: usize = 64 * 1024 * 1024;

/// How long a channel that is given up waits for the confirms that are on their way to it.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);

/// Sends through one channel.
#[derive(Debug)]
pub(super) struct AmqpPublisher {
    inbox: mpsc::Sender<Job>,
    /// Why the channel can send no more; nothing while it can.
    lost: watch::Receiver<Option<BrokerError>>,
    connection: watch::Receiver<ConnectionState>,
}

#[derive(Debug)]
struct Job {
    outgoing: Outgoing,
    outcome: oneshot::Sender<Published>,
}

impl AmqpPublisher {
    /// Starts the publishing task of a channel in confirm mode. It ends with the publisher or the transport.
    ///
    /// While the broker blocks the connection it takes no message: those that wait for it can still be withdrawn.
    pub(super) fn start(channel: Arc<OpenChannel>, tasks: &Tasks) -> Self {
        let (inbox, jobs) = mpsc::channel(INBOX);
        let (lost_sender, lost) = watch::channel(None);
        let connection = channel.connection();
        let task = Task {
            connection: connection.clone(),
            channel,
            unconfirmed_bytes: 0,
            confirms: Confirms::default(),
            outcomes: HashMap::new(),
            refusals: Refusals::default(),
            given_up_at: None,
            lost: lost_sender,
        };
        tasks.tracker.spawn(task.run(jobs, tasks.ending.clone()));
        Self {
            inbox,
            lost,
            connection,
        }
    }

    /// Waits until the broker reads what is published, or the connection is lost: a message that waits here is dropped
    /// with its call. Cancel safe.
    async fn unblocked(&self) {
        if self.connection.borrow().blocked.is_none() {
            return;
        }
        let is_over = |state: &ConnectionState| state.blocked.is_none() || state.lost.is_some();
        // It fails where the connection is gone, which the task finds out.
        let _ = self.connection.clone().wait_for(is_over).await;
    }
}

#[async_trait]
impl Publisher for AmqpPublisher {
    async fn ready(&self) {
        self.unblocked().await;
        // There is no place where the task has ended; who publishes then hears of it.
        let _ = self.inbox.reserve().await;
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        let departure = outgoing.departure.clone();
        let (outcome, published) = oneshot::channel();
        self.unblocked().await;
        if self.inbox.send(Job { outgoing, outcome }).await.is_err() {
            return Published::Failed {
                source: self.closed().await,
                written: false,
            };
        }
        match published.await {
            Ok(published) => published,
            // The task answers each job, unless it is told to end.
            Err(_) => Published::Failed {
                source: self.closed().await,
                written: !departure.withdraw(),
            },
        }
    }

    async fn closed(&self) -> BrokerError {
        match self.lost.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            // The task was told to end.
            Ok(None) | Err(_) => BrokerError::Closed,
        }
    }
}

/// A message on its way to its confirm.
type Confirming = BoxFuture<'static, Confirmed>;

struct Confirmed {
    sequence: u64,
    size: usize,
    /// The message was written as a whole.
    written: bool,
    confirmation: lapin::Result<Confirmation>,
}

/// Who waits for the broker's word on a message.
struct Waiting {
    queue: ShortStr,
    outcome: oneshot::Sender<Published>,
}

struct Task {
    channel: Arc<OpenChannel>,
    connection: watch::Receiver<ConnectionState>,
    confirms: Confirms,
    outcomes: HashMap<u64, Waiting>,
    refusals: Refusals,
    /// When the channel ends at the latest, where a queue refuses all that comes by it.
    given_up_at: Option<Instant>,
    unconfirmed_bytes: usize,
    lost: watch::Sender<Option<BrokerError>>,
}

impl Task {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>, ending: CancellationToken) {
        let mut confirming: FuturesUnordered<Confirming> = FuturesUnordered::new();
        let mut open = true;
        let reason = loop {
            if let Some(reason) = self.reason() {
                break reason;
            }
            if confirming.is_empty() {
                match (open, self.given_up_at) {
                    (false, _) => return,
                    (true, Some(_)) => break refused_everything(),
                    (true, None) => {}
                }
            }
            let is_given_up = self.given_up_at.is_some();
            let may_send = open && !is_given_up && !self.is_blocked() && self.has_room(confirming.len());
            tokio::select! {
                () = ending.cancelled() => return,
                Some(confirmed) = confirming.next() => self.confirmed(confirmed),
                job = jobs.recv(), if may_send => match job {
                    Some(job) => confirming.extend(self.publish(job).await),
                    None => open = false,
                },
                () = until(self.confirms.next_overdue()) => {
                    let decided = self.confirms.overdue(Instant::now());
                    self.tell(decided);
                }
                () = until(self.given_up_at) => break refused_everything(),
                changed = self.connection.changed() => if changed.is_err() {
                    break BrokerError::Lost { source: None };
                },
                // Where no job is taken, this tells that nobody is left to give one.
                () = self.lost.closed(), if !may_send && confirming.is_empty() => return,
            }
        };
        self.end(reason, confirming, jobs).await;
    }

    /// Why nothing can be sent any more.
    fn reason(&self) -> Option<BrokerError> {
        let of_channel = self.lost.borrow().clone();
        of_channel.or_else(|| self.connection.borrow().lost.clone())
    }

    fn is_blocked(&self) -> bool {
        self.connection.borrow().blocked.is_some()
    }

    fn has_room(&self, unconfirmed: usize) -> bool {
        unconfirmed < MAX_UNCONFIRMED && self.unconfirmed_bytes < MAX_UNCONFIRMED_BYTES
    }

    /// Answers all jobs: nothing more will be heard of those that were handed on, the others never left.
    async fn end(
        mut self,
        reason: BrokerError,
        mut confirming: FuturesUnordered<Confirming>,
        mut jobs: mpsc::Receiver<Job>,
    ) {
        self.lost
            .send_if_modified(|lost| lost.replace(reason.clone()).is_none());
        while let Some(Some(confirmed)) = confirming.next().now_or_never() {
            self.confirmed(confirmed);
        }
        let reason = self.reason().unwrap_or(reason);
        let confirmed = self.confirms.end();
        self.tell(confirmed);
        let failed = |written| Published::Failed {
            source: reason.clone(),
            written,
        };
        for (_, waiting) in self.outcomes.drain() {
            let _ = waiting.outcome.send(failed(true));
        }
        jobs.close();
        while let Some(job) = jobs.recv().await {
            let _ = job.outcome.send(failed(false));
        }
    }

    /// Hands a message to lapin; what is returned waits for its confirm.
    async fn publish(&mut self, job: Job) -> Option<Confirming> {
        let Job { outgoing, outcome } = job;
        let Outgoing {
            queue,
            mandatory,
            message,
            departure,
        } = outgoing;
        if !departure.leave() {
            let _ = outcome.send(Published::Withdrawn);
            return None;
        }
        let correlation_id = message.properties.correlation_id.clone();
        let key = correlation_id.filter(|_| mandatory).map(|id| (queue.clone(), id));
        let (routing_key, properties) = match (short(queue.as_str()), convert::to_lapin(message.properties)) {
            (Ok(routing_key), Ok(properties)) => (routing_key, properties),
            (Err(source), _) | (_, Err(source)) => {
                let _ = outcome.send(Published::Failed {
                    source,
                    written: false,
                });
                return None;
            }
        };
        let sequence = self.confirms.publish(key);
        self.outcomes.insert(sequence, Waiting { queue, outcome });
        let channel = Arc::clone(&self.channel);
        let body = message.body;
        let size = body.len();
        self.unconfirmed_bytes += size;
        let mut publishing: Confirming = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory,
                ..BasicPublishOptions::default()
            };
            let published = channel
                .basic_publish("".into(), routing_key, options, &body, properties)
                .await;
            // It has been written; while it waits for its confirm, it takes no memory.
            drop(body);
            let written = published.is_ok();
            let confirmation = match published {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            Confirmed {
                sequence,
                size,
                written,
                confirmation,
            }
        });
        match first_poll(publishing.as_mut()).await {
            None => Some(publishing),
            // Failed at once: the channel was closed before, unless the message was written all the same.
            Some(Confirmed {
                confirmation: Err(error),
                written,
                ..
            }) => {
                self.failed(sequence, size, error, written);
                None
            }
            Some(confirmed) => {
                self.confirmed(confirmed);
                None
            }
        }
    }

    fn confirmed(&mut self, confirmed: Confirmed) {
        let Confirmed {
            sequence,
            size,
            confirmation,
            ..
        } = confirmed;
        let (confirm, returned) = match confirmation {
            Ok(Confirmation::Ack(returned)) => (Confirm::Ack, returned),
            Ok(Confirmation::Nack(returned)) => (Confirm::Nack, returned),
            // Only of a channel that is not in confirm mode, and this one is.
            Ok(Confirmation::NotRequested) => (Confirm::Ack, None),
            Err(error) => return self.failed(sequence, size, error, true),
        };
        self.unconfirmed_bytes -= size;
        let now = Instant::now();
        if let Some(Waiting { queue, .. }) = self.outcomes.get(&sequence)
            && self.refusals.confirmed(queue, confirm, now)
        {
            self.given_up_at.get_or_insert(now + LAST_CONFIRMS);
        }
        let returned = returned.as_deref().and_then(key);
        let decided = self.confirms.confirm(sequence, confirm, returned, now);
        self.tell(decided);
    }

    /// A publish fails only with its channel, which can send nothing more.
    fn failed(&mut self, sequence: u64, size: usize, error: lapin::Error, written: bool) {
        self.unconfirmed_bytes -= size;
        let mut reason = broker_error(error);
        self.lost.send_if_modified(|lost| {
            // What comes before or after the broker's own reason only says that the channel is closed.
            let is_news = match (&lost, &reason) {
                (None, _) => true,
                (Some(BrokerError::Lost { .. }), BrokerError::ChannelClosed { .. }) => true,
                (Some(known), _) => {
                    reason = known.clone();
                    false
                }
            };
            if is_news {
                *lost = Some(reason.clone());
            }
            is_news
        });
        if let Some(Waiting { outcome, .. }) = self.outcomes.remove(&sequence) {
            let source = reason;
            let _ = outcome.send(Published::Failed { source, written });
        }
        let decided = self.confirms.forget(sequence);
        self.tell(decided);
    }

    fn tell(&mut self, decided: Decided) {
        for (sequence, published) in decided {
            if let Some(Waiting { outcome, .. }) = self.outcomes.remove(&sequence) {
                // Nobody listens where the reply came before the confirm, or the call was given up.
                let _ = outcome.send(published);
            }
        }
    }
}

/// Why a channel is given up that the broker does not close.
fn refused_everything() -> BrokerError {
    let source = Cause::new("a queue refused for ten seconds all that came by this channel");
    BrokerError::Lost { source: Some(source) }
}

/// Waits until then, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Polls a future once; `None` where it is not ready.
async fn first_poll<T>(mut future: Pin<&mut (dyn Future<Output = T> + Send)>) -> Option<T> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

fn key(returned: &Delivery) -> Option<Key> {
    let queue = ShortStr::new(returned.routing_key.as_str()).ok()?;
    let correlation_id = returned.properties.correlation_id().as_ref()?;
    Some((queue, ShortStr::new(correlation_id.as_str()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Message;
    use crate::transport::Departure;

    /// Publishes through a publisher whose task has ended.
    async fn publish_after(lost: Option<BrokerError>) -> Published {
        let (inbox, _) = mpsc::channel(1);
        let (_, lost) = watch::channel(lost);
        let outgoing = Outgoing {
            queue: ShortStr::from_static("q"),
            mandatory: true,
            message: Message::default(),
            departure: Departure::default(),
        };
        let (_, connection) = watch::channel(ConnectionState::default());
        let publisher = AmqpPublisher {
            inbox,
            lost,
            connection,
        };
        publisher.publish(outgoing).await
    }

    #[tokio::test]
    async fn who_comes_after_the_loss_of_the_channel_hears_of_it() {
        let published = publish_after(Some(BrokerError::Lost { source: None })).await;
        let is_lost = matches!(
            published,
            Published::Failed {
                source: BrokerError::Lost { .. },
                written: false
            }
        );
        assert!(is_lost, "{published:?}");
    }

    #[tokio::test]
    async fn who_comes_after_the_end_hears_of_that() {
        let published = publish_after(None).await;
        let is_closed = matches!(
            published,
            Published::Failed {
                source: BrokerError::Closed,
                written: false
            }
        );
        assert!(is_closed, "{published:?}");
    }
}
