//! A worker's answers to those who ask all workers at once.
//!
//! Its queue is its own, and what comes there is run apart from the requests: it is answered although all of their places are taken, and
//! takes none. Nothing here is worth failing a server for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::outlet::Outlet;
use crate::service::{Decision, Dispatcher, Received, ReplyTo, RequestLog, Rules, Service, run};

use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::Reply;
use crate::transport::{
    Backoff, Broadcasts, Delivery, Departure, Outgoing, Subscription, Transport, supervised,
};

/// How long a question to all workers is worth an answer.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(5);

/// Where all workers are asked.
pub(crate) const DISCOVERY: Broadcasts = Broadcasts {
    exchange: "rpc.discovery",
    prefetch: 16,
    time_to_live: MAX_WAIT,
    max_messages: 100,
    max_bytes: 1024 * 1024,
};

/// How long a worker that may not listen does without, before it tries again: permissions change, but seldom, and the broker logs each refusal.
const RETRY: Duration = Duration::from_secs(600);

/// How long a server that starts waits until it can be found.
const FIRST_LIMIT: Duration = Duration::from_secs(1);

/// Answers who asks all workers.
struct Beacon {
    transport: Arc<dyn Transport>,
    dispatcher: Dispatcher,
    rules: Rules,
    outlet: Arc<Outlet>,
    log: RequestLog,
}

/// A beacon that answers in a task of its own, which ends with this.
pub(super) struct LitBeacon {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
    /// Ready once the first attempt to listen has succeeded or failed.
    tried: oneshot::Receiver<()>,
}

impl LitBeacon {
    /// Listens, and answers with these methods.
    pub(super) fn light(
        transport: &Arc<dyn Transport>,
        service: &Arc<dyn Service>,
        rules: Rules,
        outlet: &Arc<Outlet>,
    ) -> Self {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_built_in(service);
        let beacon = Beacon {
            transport: Arc::clone(transport),
            dispatcher,
            rules,
            outlet: Arc::clone(outlet),
            log: RequestLog::new(DISCOVERY.exchange),
        };
        let stop = CancellationToken::new();
        let (trying, tried) = oneshot::channel();
        let stopped = stop.clone();
        let mut trying = Some(trying);
        let listening = async move {
            supervised("discovery", || beacon.listen(trying.take(), &stopped)).await;
        };
        let task = transport.runtime().spawn(listening);
        Self {
            stop,
            task: AbortOnDropHandle::new(task),
            tried,
        }
    }

    /// Waits until the worker can be found, unless that takes long or is not to be. To be called once.
    pub(super) async fn lit(&mut self) {
        let _ = timeout(FIRST_LIMIT, &mut self.tried).await;
    }

    /// Answers nobody any more.
    pub(super) async fn put_out(self) {
        self.stop.cancel();
        // It keeps to limits of its own; a panic in there is none of the server's business.
        let _ = self.task.await;
    }
}

impl Beacon {
    /// Listens until it is told to stop or the handle is closed, and again whenever the connection was lost.
    async fn listen(&self, mut trying: Option<oneshot::Sender<()>>, stop: &CancellationToken) {
        let mut backoff = Backoff::new();
        let mut is_refusal_told = false;
        loop {
            let opening = self.transport.open_broadcasts(&DISCOVERY);
            let Some(opened) = stop.run_until_cancelled(opening).await else {
                return;
            };
            drop(trying.take());
            let resting = match opened {
                Ok(subscription) => {
                    let since = Instant::now();
                    is_refusal_told = false;
                    let Some(lost) = self.answer_all(subscription, stop).await else {
                        return;
                    };
                    let error = Logged(Chain(&lost));
                    tracing::debug!(%error, "the discovery queue was lost; declaring it again");
                    backoff.worked_for(since.elapsed());
                    Rest::After(lost)
                }
                Err(error) if error.is_of_ended_handle() => return,
                Err(refused) if !refused.is_worth_another_try() => {
                    if !std::mem::replace(&mut is_refusal_told, true) {
                        let error = Logged(Chain(&refused));
                        let needs = needs(&refused);
                        tracing::info!(
                            %error,
                            needs,
                            "serving without discovery"
                        );
                    }
                    Rest::Long
                }
                Err(error) => Rest::After(error),
            };
            let resting = async {
                match resting {
                    Rest::After(error) => backoff.wait_after(&error).await,
                    Rest::Long => sleep(RETRY).await,
                }
            };
            if stop.run_until_cancelled(resting).await.is_none() {
                return;
            }
        }
    }

    /// Answers what comes, until no more does, and says why; nothing where it was told to stop.
    async fn answer_all(
        &self,
        mut subscription: Subscription,
        stop: &CancellationToken,
    ) -> Option<BrokerError> {
        let mut answering = FuturesUnordered::new();
        let lost = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                Some(tag) = answering.next() => subscription.control.settle(tag),
                // No more than the prefetch.
                arrival = subscription.deliveries.next() => match arrival {
                    Some(Ok(delivery)) => answering.push(self.answer(delivery)),
                    Some(Err(reason)) => break Some(reason),
                    None => break Some(BrokerError::Lost { source: None }),
                },
            }
        };
        match &lost {
            // Deleted, and not left to go by itself a moment later: who asks from now on is not told of this worker.
            None => subscription.control.retire().await,
            Some(_) => subscription.control.close().await,
        }
        lost
    }

    /// Answers one who asks, and returns the delivery's tag.
    async fn answer(&self, delivery: Delivery) -> u64 {
        let tag = delivery.tag;
        // Layers may have it wait; who asked does not wait for longer.
        if timeout(MAX_WAIT, self.answer_in_time(delivery)).await.is_err() {
            self.log.unanswered_question();
        }
        tag
    }

    async fn answer_in_time(&self, delivery: Delivery) {
        if let Some(malformed) = delivery.malformed {
            self.log.malformed_question(malformed);
            return;
        }
        let now = Instant::now();
        let decided = self.dispatcher.decide(
            delivery.message,
            delivery.redelivered,
            Received::at(now),
            now,
            &self.rules,
        );
        let (reply, to) = match decided {
            Ok(Decision::Run {
                service,
                invocation,
                answer_to: Some(to),
                ..
            }) => (
                run(service, DISCOVERY.exchange, &self.log, &self.rules, &invocation)
                    .await
                    .reply,
                to,
            ),
            Ok(Decision::Refuse {
                reply,
                fault,
                answer_to: Some(to),
                ..
            }) => {
                self.log.refused_question(&fault);
                (reply, to)
            }
            // Nobody wants to know.
            Ok(Decision::Run { .. } | Decision::Refuse { .. }) => return,
            Err(no_address) => {
                self.log.dropped(&no_address);
                return;
            }
        };
        self.send(reply, to, now + MAX_WAIT).await;
    }

    async fn send(&self, reply: Reply, to: ReplyTo, worth_until: Instant) {
        let message = to.message(reply);
        let outgoing = Outgoing {
            queue: to.address,
            mandatory: false,
            message,
            departure: Departure::default(),
        };
        // Whatever becomes of it: who asked can ask again.
        let _ = self.outlet.send(outgoing, Some(worth_until), false).await;
    }
}

/// How long not to listen.
enum Rest {
    After(BrokerError),
    Long,
}

/// What the worker's user lacks, most likely.
fn needs(refused: &BrokerError) -> &'static str {
    match refused {
        BrokerError::Exchange {
            action: "declare", ..
        } => {
            "configure permission on the exchange rpc.discovery, or somebody else who declares it: durable, fanout"
        }
        BrokerError::TooManyChannels { .. } => "a channel more",
        BrokerError::Exchange { .. } => {
            "read permission on the exchange rpc.discovery, and write permission on queues rpc.discovery.*"
        }
        _ => "configure, write and read permission on queues rpc.discovery.*",
    }
}
