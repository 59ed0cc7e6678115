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
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::channel::{OpenChannel, Tasks};
use super::confirms::{Confirm, Confirms, Key};
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
        let task = Task {
            channel,
            confirms: Confirms::default(),
            outcomes: HashMap::new(),
        };
        tasks.tracker.spawn(task.run(jobs, tasks.ending.clone()));
        Self { inbox }
    }
}

#[async_trait]
impl Publisher for AmqpPublisher {
    async fn publish(&self, outgoing: Outgoing) -> Published {
        let (outcome, published) = oneshot::channel();
        if self.inbox.send(Job { outgoing, outcome }).await.is_err() {
            return Published::Failed {
                source: BrokerError::Closed,
                written: false,
            };
        }
        // The task answers each job, unless the runtime that it lives in ends.
        published.await.unwrap_or(Published::Failed {
            source: BrokerError::Closed,
            written: true,
        })
    }
}

type Confirming = BoxFuture<'static, (u64, lapin::Result<Confirmation>)>;

struct Task {
    channel: Arc<OpenChannel>,
    confirms: Confirms,
    outcomes: HashMap<u64, oneshot::Sender<Published>>,
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
                },
            outcome,
        } = job;
        let key = (queue.clone(), message.properties.correlation_id.clone());
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
        let mut publishing: Confirming = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory,
                ..BasicPublishOptions::default()
            };
            let published = channel
                .basic_publish("".into(), routing_key, options, &message.body, properties)
                .await;
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
                let _ = outcome.send(Published::Failed {
                    source: lost(error),
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
        let decided = match confirmation {
            Ok(Confirmation::Ack(returned)) => {
                self.confirms
                    .confirm(sequence, Confirm::Ack, returned.and_then(key))
            }
            Ok(Confirmation::Nack(returned)) => {
                self.confirms
                    .confirm(sequence, Confirm::Nack, returned.and_then(key))
            }
            // Only of a channel that is not in confirm mode, and this one is.
            Ok(Confirmation::NotRequested) => self.confirms.confirm(sequence, Confirm::Ack, None),
            Err(error) => {
                self.tell(vec![(
                    sequence,
                    Published::Failed {
                        source: lost(error),
                        written: true,
                    },
                )]);
                self.confirms.forget(sequence)
            }
        };
        self.tell(decided);
    }

    fn tell(&mut self, decided: Vec<(u64, Published)>) {
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

fn key(returned: BasicReturnMessage) -> Option<Key> {
    let queue = ShortStr::new(returned.routing_key.as_str()).ok()?;
    let correlation_id = returned.properties.correlation_id().as_ref();
    Some((
        queue,
        correlation_id.and_then(|id| ShortStr::new(id.as_str()).ok()),
    ))
}
