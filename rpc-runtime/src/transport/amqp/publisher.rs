//! Publishing: one task a channel, so that messages and confirms are counted in the same order.
//!
//! lapin takes a confirm's number and queues the message's frames under two locks: two tasks that publish at once can
//! swap their confirms. Both happen when the publish is first polled, so one task polls each in turn, once, and
//! then waits for all of them together; their frames still leave in one write.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lapin::Confirmation;
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::channel::{OpenChannel, Tasks};
use super::confirms::{Confirm, Confirms, Decided, Key};
use super::{convert, lost, short};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::{Outgoing, Published, Publisher};

/// How many messages may wait for the publishing task; who sends more waits.
const INBOX: usize = 256;

/// How many messages may wait for their confirm.
const MAX_UNCONFIRMED: usize = 4096;

/// Sends through one channel.
#[derive(Debug)]
pub(super) struct AmqpPublisher {
    inbox: mpsc::Sender<Job>,
    /// Why the channel can send no more; nothing while it can.
    lost: watch::Receiver<Option<BrokerError>>,
}

#[derive(Debug)]
struct Job {
    outgoing: Outgoing,
    outcome: oneshot::Sender<Published>,
}

impl AmqpPublisher {
    /// Starts the publishing task of a channel in confirm mode. It ends with the publisher or the transport.
    pub(super) fn start(channel: Arc<OpenChannel>, tasks: &Tasks) -> Self {
        let (inbox, jobs) = mpsc::channel(INBOX);
        let (lost_sender, lost) = watch::channel(None);
        let task = Task {
            channel,
            confirms: Confirms::default(),
            outcomes: HashMap::new(),
            lost: lost_sender,
        };
        tasks.tracker.spawn(task.run(jobs, tasks.ending.clone()));
        Self { inbox, lost }
    }
}

#[async_trait]
impl Publisher for AmqpPublisher {
    async fn publish(&self, outgoing: Outgoing) -> Published {
        let departure = outgoing.departure.clone();
        let (outcome, published) = oneshot::channel();
        if self.inbox.send(Job { outgoing, outcome }).await.is_err() {
            return Published::Failed {
                source: BrokerError::Closed,
                written: false,
            };
        }
        match published.await {
            Ok(published) => published,
            // The task answers each job, unless it is told to end.
            Err(_) => Published::Failed {
                source: BrokerError::Closed,
                written: !departure.withdraw(),
            },
        }
    }

    async fn closed(&self) -> BrokerError {
        match self.lost.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            // The task has ended.
            Ok(None) | Err(_) => BrokerError::Closed,
        }
    }
}

type Confirming = BoxFuture<'static, (u64, lapin::Result<Confirmation>)>;

struct Task {
    channel: Arc<OpenChannel>,
    confirms: Confirms,
    outcomes: HashMap<u64, oneshot::Sender<Published>>,
    lost: watch::Sender<Option<BrokerError>>,
}

impl Task {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>, ending: CancellationToken) {
        let mut confirming: FuturesUnordered<Confirming> = FuturesUnordered::new();
        let mut open = true;
        while open || !confirming.is_empty() {
            tokio::select! {
                () = ending.cancelled() => return,
                Some((sequence, confirmation)) = confirming.next() => self.confirmed(sequence, confirmation),
                job = jobs.recv(), if open && confirming.len() < MAX_UNCONFIRMED => match job {
                    Some(job) => confirming.extend(self.publish(job).await),
                    None => open = false,
                },
            }
        }
    }

    /// Hands a message to lapin; what is returned waits for its confirm.
    async fn publish(&mut self, job: Job) -> Option<Confirming> {
        let Job {
            outgoing:
                Outgoing {
                    queue,
                    mandatory,
                    message,
                    departure,
                },
            outcome,
        } = job;
        if !departure.leave() {
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
        let channel = Arc::clone(&self.channel);
        let body = message.body;
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
            let confirmation = match published {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            (sequence, confirmation)
        });
        match first_poll(publishing.as_mut()).await {
            None => {
                self.outcomes.insert(sequence, outcome);
                Some(publishing)
            }
            // Ready at once: the channel was closed before, and nothing was written.
            Some((_, Err(error))) => {
                let source = self.failed(error);
                let _ = outcome.send(Published::Failed {
                    source,
                    written: false,
                });
                let decided = self.confirms.forget(sequence);
                self.tell(decided);
                None
            }
            Some((_, Ok(confirmation))) => {
                self.outcomes.insert(sequence, outcome);
                self.confirmed(sequence, Ok(confirmation));
                None
            }
        }
    }

    fn confirmed(&mut self, sequence: u64, confirmation: lapin::Result<Confirmation>) {
        let (confirm, returned) = match confirmation {
            Ok(Confirmation::Ack(returned)) => (Confirm::Ack, returned),
            Ok(Confirmation::Nack(returned)) => (Confirm::Nack, returned),
            // Only of a channel that is not in confirm mode, and this one is.
            Ok(Confirmation::NotRequested) => (Confirm::Ack, None),
            Err(error) => {
                let source = self.failed(error);
                self.tell(vec![(
                    sequence,
                    Published::Failed {
                        source,
                        written: true,
                    },
                )]);
                let decided = self.confirms.forget(sequence);
                return self.tell(decided);
            }
        };
        let decided = self
            .confirms
            .confirm(sequence, confirm, returned.as_deref().and_then(key));
        self.tell(decided);
    }

    /// A publish fails only with its channel.
    fn failed(&self, error: lapin::Error) -> BrokerError {
        let reason = lost(error);
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert_with(|| reason.clone());
            first
        });
        reason
    }

    fn tell(&mut self, decided: Decided) {
        for (sequence, published) in decided {
            if let Some(outcome) = self.outcomes.remove(&sequence) {
                // Nobody listens where the reply came before the confirm, or the call was given up.
                let _ = outcome.send(published);
            }
        }
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
