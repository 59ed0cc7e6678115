//! One queue that is served: its consumer, opened again whenever it is lost; its requests, one task each, all owned here;
//! and the drain.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::debt::Served;
use super::queue_delay::{Exhausted, QueueDelays, is_probe};
use super::serve::Desk;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::service::Received;
use crate::transport::{Backoff, Control, Delivery, RequestQueue, Role, Subscription, Transport, caught};

/// How long no requests have come when no more are taken to be under way: batched ones whose callers were told to send
/// no more, or those to a single active consumer that settles nothing more.
const QUIET: Duration = Duration::from_millis(100);

/// How long a worker that stops waits for that at the most.
const LONGEST_HEED: Duration = Duration::from_secs(1);

/// How long a handler that was told to stop may take to do so.
const ABORT_LIMIT: Duration = Duration::from_secs(1);

/// The time limit that requests in batches are taken to have. The message does not tell it.
const TIME_IN_BATCH: Duration = Duration::from_secs(30);

/// One queue of a server.
pub(super) struct Line {
    transport: Arc<dyn Transport>,
    queue: RequestQueue,
    prefetch: u16,
    /// The queue is one for batched requests.
    is_of_batches: bool,
    /// When the last request came.
    last_arrival: Option<Instant>,
    desk: Arc<Desk>,
    /// `None` if requests are admitted however long they waited.
    delays: Option<Arc<QueueDelays>>,
    served: Served,
    handlers: JoinSet<()>,
}

/// How a line ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// How many handlers had to be stopped.
    pub(super) unfinished: usize,
    /// Why it ended by itself; nothing where it was told to.
    pub(super) reason: Option<BrokerError>,
}

/// Why a line takes no more requests from a subscription.
enum Pause {
    Stopped,
    Lost(BrokerError),
}

impl Line {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        queue: RequestQueue,
        prefetch: u16,
        desk: Arc<Desk>,
        delays: Option<Arc<QueueDelays>>,
    ) -> Self {
        Self {
            transport,
            queue,
            prefetch,
            is_of_batches: false,
            last_arrival: None,
            desk,
            delays,
            served: Served::default(),
            handlers: JoinSet::new(),
        }
    }

    /// As a line for batched requests: its queue goes with its last worker.
    pub(super) fn of_batched(self) -> Self {
        Self {
            is_of_batches: true,
            ..self
        }
    }

    /// Consumes from the queue for the first time; nothing where it is told to stop before.
    ///
    /// # Errors
    ///
    /// Where the broker refuses the queue. What can pass is tried again.
    pub(super) async fn open(&self, stop: &CancellationToken) -> Result<Option<Subscription>, BrokerError> {
        let mut backoff = Backoff::new();
        loop {
            match self.subscribe(stop).await {
                Some(Err(error)) if error.is_worth_another_try() => not_open(&self.desk.queue, &error),
                opened => return opened.transpose(),
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Consumes from the queue; nothing where it is told to stop and there is no connection.
    ///
    /// With a connection, the answer is waited for even then: the broker may have begun to deliver, and what is given back to
    /// it unseen counts as delivered before, so that some of it would never run.
    async fn subscribe(&self, stop: &CancellationToken) -> Option<Result<Subscription, BrokerError>> {
        let given_up = async {
            stop.cancelled().await;
            self.transport.status().down(Role::Consuming).await;
        };
        tokio::select! {
            biased;
            opened = self.transport.open_requests(&self.queue, self.prefetch) => Some(opened),
            () = given_up => None,
        }
    }

    /// A line like it, with no requests yet.
    fn afresh(&self) -> Self {
        Self {
            is_of_batches: self.is_of_batches,
            ..Self::new(
                Arc::clone(&self.transport),
                self.queue.clone(),
                self.prefetch,
                Arc::clone(&self.desk),
                self.delays.clone(),
            )
        }
    }

    /// Serves until it is told to stop, or the handle is closed; then drains. After a panic, the queue is consumed by a fresh line, and
    /// what the other one had in hand comes again.
    pub(super) async fn run(
        self,
        first: Subscription,
        stop: CancellationToken,
        drain_limit: Duration,
    ) -> Ended {
        let mut backoff = Backoff::new();
        let (mut line, mut subscription) = (self, first);
        loop {
            let fresh = line.afresh();
            let since = Instant::now();
            let mut control = Arc::clone(&subscription.control);
            let serving = line.serve(subscription, &mut control, stop.clone(), drain_limit);
            let panicked = match caught("request queue", serving).await {
                Ok(ended) => return ended,
                Err(panicked) => panicked,
            };
            fresh.desk.lose_deliveries(&control);
            if let Some(delays) = &fresh.delays {
                delays.reset();
            }
            control.close().await;
            backoff.worked_for(since.elapsed());
            subscription = match fresh.reopen(panicked.into(), &mut backoff, &stop).await {
                Ok(Some(subscription)) => subscription,
                Ok(None) => return fresh.drain(None, drain_limit, None).await,
                Err(closed) => return fresh.drain(None, drain_limit, Some(closed)).await,
            };
            line = fresh;
        }
    }

    /// Serves; `control` is the current subscription's.
    async fn serve(
        mut self,
        first: Subscription,
        control: &mut Arc<dyn Control>,
        stop: CancellationToken,
        drain_limit: Duration,
    ) -> Ended {
        let mut backoff = Backoff::new();
        let mut subscription = first;
        loop {
            let since = Instant::now();
            let lost = match self.consume(&mut subscription, &stop).await {
                Pause::Stopped => return self.drain(Some(subscription), drain_limit, None).await,
                Pause::Lost(reason) => reason,
            };
            self.desk.lose_deliveries(&subscription.control);
            if let Some(delays) = &self.delays {
                delays.reset();
            }
            if let Some(over) = self.transport.status().over() {
                return self.drain(None, drain_limit, Some(over)).await;
            }
            tracing::warn!(
                queue = self.desk.queue,
                error = %Logged(Chain(&lost)),
                "requests come no more; consuming again"
            );
            // Its node may be down for long, and then RabbitMQ 4 refuses what is sent there.
            if self.is_of_batches {
                self.desk.stop_batched();
            }
            subscription.control.close().await;
            backoff.worked_for(since.elapsed());
            subscription = match self.reopen(lost, &mut backoff, &stop).await {
                Ok(Some(subscription)) => subscription,
                Ok(None) => return self.drain(None, drain_limit, None).await,
                Err(closed) => return self.drain(None, drain_limit, Some(closed)).await,
            };
            if self.is_of_batches {
                self.desk.resume_batched();
            }
            *control = Arc::clone(&subscription.control);
        }
    }

    /// Takes requests until it is told to stop or no more come.
    async fn consume(&mut self, subscription: &mut Subscription, stop: &CancellationToken) -> Pause {
        let mut stopped = pin!(stop.cancelled());
        let served = self.served.clone();
        let mut gave_up = pin!(served.gave_up());
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => return Pause::Stopped,
                arrival = subscription.deliveries.next() => match arrival {
                    Some(Ok(delivery)) => {
                        // Here, and not as each ends: this task need not be woken for it.
                        while let Some(ended) = self.handlers.try_join_next() {
                            note_failure(ended);
                        }
                        self.start(delivery, subscription);
                    }
                    Some(Err(reason)) => return Pause::Lost(reason),
                    None => return Pause::Lost(BrokerError::Cancelled { queue: self.desk.queue.clone() }),
                },
                // A task that had a request in hand has panicked. Last, as it is seldom: the prefetch holds deliveries back soon.
                () = &mut gave_up => return Pause::Lost(BrokerError::Panicked { task: "request" }),
            }
        }
    }

    /// Consumes again after the loss of a subscription, however often it takes; nothing where it is told to stop before.
    ///
    /// # Errors
    ///
    /// Only where the handle was closed.
    async fn reopen(
        &self,
        mut lost: BrokerError,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<Option<Subscription>, BrokerError> {
        while stop
            .run_until_cancelled(backoff.wait_after(&lost))
            .await
            .is_some()
        {
            match self.subscribe(stop).await {
                Some(Ok(subscription)) => {
                    tracing::info!(queue = self.desk.queue, "consuming again");
                    return Ok(Some(subscription));
                }
                Some(Err(error)) if error.is_of_ended_handle() => return Err(error),
                Some(Err(error)) => {
                    not_open(&self.desk.queue, &error);
                    lost = error;
                }
                None => break,
            }
        }
        Ok(None)
    }

    /// Begins a request: the prefetch keeps their number near the concurrency, the desk keeps it there.
    fn start(&mut self, delivery: Delivery, subscription: &Subscription) {
        let (desk, control) = (Arc::clone(&self.desk), Arc::clone(&subscription.control));
        let (served, is_batched) = (self.served.clone(), self.is_of_batches);
        let (received, exhausted) = self.receive(&delivery);
        self.last_arrival = Some(received.at);
        self.handlers.spawn(async move {
            desk.serve(delivery, is_batched, control, received, &served).await;
            drop(exhausted);
        });
    }

    /// A delivery arrives now. With the last of the prefetch, messages may wait in the queue.
    fn receive(&self, delivery: &Delivery) -> (Received, Option<Exhausted>) {
        let at = Instant::now();
        let Some(delays) = &self.delays else {
            return (Received::at(at), None);
        };
        let properties = &delivery.message.properties;
        let priority = properties.priority.unwrap_or(0);
        let received = delays.receive(priority, at);
        if is_probe(properties) {
            return (received, None);
        }
        // The requests in a batch have times of their own.
        let in_batch = self.is_of_batches.then_some(TIME_IN_BATCH);
        if let Some(time) = properties.expiration.max(in_batch) {
            delays.note_time_to_live(time);
        }
        let in_hand = 1 + self.handlers.len().max(self.served.deliveries());
        let exhausts = in_hand >= self.prefetch.into();
        let exhausted = exhausts.then(|| delays.exhaust(priority, at));
        (received, exhausted)
    }

    /// Takes no more requests, and lets those that were delivered end, all within the limit.
    async fn drain(
        mut self,
        mut subscription: Option<Subscription>,
        limit: Duration,
        reason: Option<BrokerError>,
    ) -> Ended {
        // Told to stop and closed at the same time, it could not drain.
        let reason = reason.or_else(|| self.transport.status().over());
        if self.is_of_batches {
            self.desk.stop_batched();
        }
        let draining = async {
            if self.is_of_batches
                && let Some(subscription) = &mut subscription
            {
                let _ = timeout(LONGEST_HEED, self.until_heeded(subscription)).await;
            }
            self.finish(subscription.as_mut()).await;
            if self.is_of_batches && reason.is_none() {
                self.retire(&mut subscription).await;
            }
        };
        let finished = timeout(limit, draining).await;
        let unfinished = self.served.count();
        if finished.is_err() {
            self.handlers.abort_all();
            // One that blocks its thread cannot be stopped; its request is given back all the same.
            let stopping = async { while self.handlers.join_next().await.is_some() {} };
            if timeout(ABORT_LIMIT, stopping).await.is_err() {
                tracing::error!("a handler blocks its thread and cannot be stopped");
            }
        }
        if let Some(subscription) = subscription {
            subscription.control.close().await;
        }
        Ended { unfinished, reason }
    }

    /// Serves what still comes until none has come for a while. Each answer tells its caller to batch no more, so that nothing is under way
    /// to the queue when it goes: RabbitMQ confirms what reaches a queue that is being deleted, and drops it.
    async fn until_heeded(&mut self, subscription: &mut Subscription) {
        while let Some(last) = self.last_arrival {
            match timeout_at(last + QUIET, subscription.deliveries.next()).await {
                Ok(Some(Ok(delivery))) => self.start(delivery, subscription),
                // It is quiet, or over.
                Ok(Some(Err(_)) | None) | Err(_) => return,
            }
        }
    }

    /// With the last worker that takes batched calls, callers are to hear of it, from a queue that is gone: once what they sent
    /// since then, which nobody else would take out, is served too.
    async fn retire(&mut self, subscription: &mut Option<Subscription>) {
        while let Some(ended) = subscription.take() {
            ended.control.close().await;
            if self.transport.retire_requests(&self.queue).await {
                let again = self.transport.open_requests(&self.queue, self.prefetch);
                *subscription = again.await.ok();
                self.finish(subscription.as_mut()).await;
            }
        }
    }

    /// Serves until no handler runs, while the queue's requests still come to this consumer alone.
    /// What ends is not settled before the consumer is gone, so that no more than the prefetch comes;
    /// and what is under way by then is waited for.
    async fn finish_before_others_begin(&mut self, subscription: &mut Subscription) {
        subscription.control.hold();
        let served = self.served.clone();
        loop {
            let quiet = async {
                served.ends().await;
                tokio::time::sleep(QUIET).await;
            };
            tokio::select! {
                biased;
                arrival = subscription.deliveries.next() => match arrival {
                    Some(Ok(delivery)) => self.start(delivery, subscription),
                    Some(Err(_)) | None => return,
                },
                Some(ended) = self.handlers.join_next() => note_failure(ended),
                () = quiet, if self.handlers.is_empty() => return,
            }
        }
    }

    /// Waits for every handler.
    async fn finish(&mut self, mut subscription: Option<&mut Subscription>) {
        if self.queue.is_single_active()
            && let Some(subscription) = subscription.as_deref_mut()
        {
            self.finish_before_others_begin(subscription).await;
        }
        if let Some(subscription) = subscription {
            // What was under way when the consumer was cancelled has been delivered, so it is served.
            let cancelled = subscription.control.cancel().await;
            while cancelled.is_ok()
                && let Some(Ok(delivery)) = subscription.deliveries.next().await
            {
                self.start(delivery, subscription);
            }
        }
        while let Some(ended) = self.handlers.join_next().await {
            note_failure(ended);
        }
        // Answered, but for the broker's word that it has the answer.
        self.served.ends().await;
    }
}

/// Does something with a queue, again for as long as what is in the way can pass.
///
/// # Errors
///
/// Where the broker refuses the queue, or the handle was closed.
pub(super) async fn patiently<T, F: Future<Output = Result<T, BrokerError>>>(
    queue: &str,
    what: impl Fn() -> F,
) -> Result<T, BrokerError> {
    let mut backoff = Backoff::new();
    loop {
        match what().await {
            Err(error) if error.is_worth_another_try() => not_open(queue, &error),
            done => return done,
        }
        backoff.wait().await;
    }
}

fn not_open(queue: &str, error: &BrokerError) {
    let error = Logged(Chain(error));
    tracing::warn!(queue, %error, "the queue cannot be consumed; trying again");
}

/// A method's panic is caught, so this one is ours; it must not take other requests along.
fn note_failure(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        let error = Logged(Chain(&error));
        tracing::error!(%error, "a request's task failed");
    }
}
