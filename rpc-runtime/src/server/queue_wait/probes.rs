//! The task that sends probes while requests may wait in a server's queues.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::estimates::QueueWaitEstimates;
use super::estimator::Step;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{Message, PROBE_TYPE, Properties, Reply, ReplyKind, ShortStr, random_id};
use crate::transport::{
    Backoff, Depth, KeepOpen, Outgoing, Published, Publisher, ReplyQueue, Subscription, Transport, keep_open,
};

/// How long to wait before the channel for probes is opened again if it was refused or lost for a
/// reason that may last. This is long because the broker logs each refusal.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(60);

/// Identifies a probe by its server, the index of the queue that it measures, and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeId {
    /// See [`Probes::server`].
    server: Uuid,
    queue: u16,
    number: u64,
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            queue,
            number,
        } = self;
        write!(f, "{}.{queue}.{number}", server.simple())
    }
}

impl ProbeId {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        Some(Self {
            server: Uuid::try_parse(parts.next()?).ok()?,
            queue: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        })
    }
}

/// Whether a message on a request queue is a probe, of this server or another one.
pub(crate) fn is_probe(properties: &Properties) -> bool {
    properties
        .kind
        .as_ref()
        .is_some_and(|kind| kind.as_str() == PROBE_TYPE)
}

/// Returns the reply to another server's probe. `None` if the probe lacks a reply address or a
/// correlation id. The address must be checked before the reply is sent.
pub(crate) fn probe_reply(properties: &Properties) -> Option<Outgoing> {
    let reply = Reply::new(ReplyKind::Result, crate::codec::Codec::Text, bytes::Bytes::new());
    Some(Outgoing {
        queue: properties
            .reply_to
            .clone()
            .filter(|queue| !queue.as_str().is_empty())?,
        mandatory: false,
        message: reply.into_message(Some(properties.correlation_id.clone()?)),
        send_token: None,
    })
}

/// The probes of one server, and the queues that they measure.
#[derive(Debug)]
pub(crate) struct Probes {
    /// A random id, by which the server recognizes its probes. It is not the id of the worker.
    server: Uuid,
    queues: Vec<Arc<QueueWaitEstimates>>,
    /// Notified when a measurement may be due sooner.
    wake: Arc<Notify>,
    next_number: AtomicU64,
}

/// The result of one step of a measurement.
enum StepResult {
    Depth {
        /// The index of the queue.
        queue: usize,
        /// When the broker was asked.
        asked: Instant,
        depth: Option<Depth>,
    },
    Probe {
        id: ProbeId,
        published: Published,
    },
}

impl Probes {
    pub(crate) fn new() -> Self {
        Self {
            server: random_id(),
            queues: Vec::new(),
            wake: Arc::default(),
            next_number: AtomicU64::new(0),
        }
    }

    /// Adds a queue to measure, and returns its estimates.
    pub(crate) fn add(&mut self, queue: &str) -> Arc<QueueWaitEstimates> {
        let estimates = Arc::new(QueueWaitEstimates::new(queue, &self.wake));
        self.queues.push(Arc::clone(&estimates));
        estimates
    }

    /// Records that a probe came back, if it is one of this server's. Returns whether it is.
    /// `correlation_id` is that of the probe, or of another server's reply to it.
    pub(crate) fn record_returned_probe(&self, correlation_id: Option<&ShortStr>, now: Instant) -> bool {
        let id = correlation_id.and_then(|id| ProbeId::parse(id.as_str()));
        let Some(id) = id.filter(|id| id.server == self.server) else {
            return false;
        };
        if let Some(queue) = self.queues.get(usize::from(id.queue)) {
            queue.on_probe_delivered(id.number, now);
        }
        true
    }

    /// Measures the waits in the queues whenever a measurement is due. Ends once it notices that
    /// the broker handle has ended.
    pub(crate) async fn run(&self, transport: &Arc<dyn Transport>) {
        // If this runs again after a panic, the replies to earlier probes no longer arrive.
        self.forget_probes();
        let probes = self;
        keep_open(&mut ProbeRun { probes, transport }).await;
    }

    /// Waits until a step of a measurement is due.
    async fn until_due(&self) {
        loop {
            let woken = self.wake.notified();
            match self.next_due() {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => return,
                    // A step may be due sooner now.
                    () = woken => {}
                },
                None => woken.await,
            }
        }
    }

    /// Returns when the next step of a measurement is due.
    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let steps = self.queues.iter().filter_map(|queue| queue.next_step(now));
        steps.map(|(due, ..)| due).min()
    }

    /// Opens a channel for probes and their replies.
    async fn open(transport: &dyn Transport) -> Result<ProbeChannel, BrokerError> {
        let opened = transport.open_replies(ReplyQueue::Direct, None).await?;
        let publisher = match opened.publisher {
            Some(publisher) => publisher,
            None => transport.open_publisher().await?,
        };
        Ok(ProbeChannel {
            address: opened.address,
            replies: opened.replies,
            publisher,
        })
    }

    /// Measures until the channel is lost, and returns why.
    async fn measure_until_lost(
        &self,
        transport: &Arc<dyn Transport>,
        channel: &mut ProbeChannel,
    ) -> BrokerError {
        let (address, publisher, replies) = (&channel.address, &channel.publisher, &mut channel.replies);
        let mut results: FuturesUnordered<BoxFuture<'_, StepResult>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(result) = results.next() => self.record_step(&result),
                reply = replies.deliveries.next() => match reply {
                    Some(Ok(reply)) => {
                        let id = reply.message.properties.correlation_id.as_ref();
                        self.record_returned_probe(id, Instant::now());
                        replies.control.ack_up_to(reply.tag);
                    }
                    Some(Err(lost)) => return lost,
                    None => return BrokerError::Lost { source: None },
                },
                lost = publisher.wait_closed() => return lost,
                () = self.until_due() => self.begin_due(transport, address, publisher, &results),
            }
        }
    }

    /// Begins the steps of measurements that are due. Their results come from `results`.
    fn begin_due<'a>(
        &'a self,
        transport: &'a Arc<dyn Transport>,
        address: &ShortStr,
        publisher: &'a Arc<dyn Publisher>,
        results: &FuturesUnordered<BoxFuture<'a, StepResult>>,
    ) {
        let now = Instant::now();
        let is_due = |(due, ..): &(Instant, Step, u8)| *due <= now;
        for (index, estimates) in self.queues.iter().enumerate() {
            // Each step is recorded when it begins, so the next one follows.
            while let Some((_, step, priority)) = estimates.next_step(now).filter(is_due) {
                match step {
                    Step::Depth => {
                        estimates.on_depth_requested(now);
                        results.push(Box::pin(request_depth(transport, index, estimates.queue(), now)));
                    }
                    Step::Probe => {
                        let id = self.next_probe_id(index);
                        let ttl = estimates.on_probe_sent(priority, id.number, now);
                        match probe_message(id, estimates.queue(), priority, ttl, address) {
                            Some(outgoing) => results.push(Box::pin(publish(publisher, id, outgoing))),
                            None => estimates.on_probe_lost(id.number),
                        }
                    }
                }
            }
        }
    }

    fn next_probe_id(&self, queue: usize) -> ProbeId {
        ProbeId {
            server: self.server,
            // No server has this many queues.
            queue: u16::try_from(queue).unwrap_or(u16::MAX),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Records the result of a step: the depth of a queue, or whether the broker has taken a probe.
    fn record_step(&self, result: &StepResult) {
        let now = Instant::now();
        match result {
            StepResult::Depth { queue, asked, depth } => {
                if let Some(queue) = self.queues.get(*queue) {
                    queue.on_depth(*asked, *depth, now);
                }
            }
            StepResult::Probe { id, published } => {
                if let Some(queue) = self.queues.get(usize::from(id.queue)) {
                    match published {
                        Published::Confirmed => queue.on_probe_confirmed(id.number, now),
                        Published::Returned
                        | Published::Refused
                        | Published::Withdrawn
                        | Published::Failed { .. } => queue.on_probe_lost(id.number),
                    }
                }
            }
        }
    }

    /// Forgets the outstanding probes and the results of earlier ones, because the channel is not
    /// open: nothing is measured, and the replies of other servers do not arrive.
    fn forget_probes(&self) {
        for queue in &self.queues {
            queue.forget_probes();
        }
    }
}

/// A channel on which probes are published and the replies to them arrive.
struct ProbeChannel {
    /// The `reply_to` of probes.
    address: ShortStr,
    replies: Subscription,
    publisher: Arc<dyn Publisher>,
}

/// Measures the queues, and keeps the channel for probes open. The channel is opened once a
/// measurement is due.
struct ProbeRun<'a> {
    probes: &'a Probes,
    transport: &'a Arc<dyn Transport>,
}

impl KeepOpen for ProbeRun<'_> {
    type Opened = ProbeChannel;
    type End = ();

    async fn open(&mut self) -> ControlFlow<(), Result<ProbeChannel, BrokerError>> {
        self.probes.until_due().await;
        ControlFlow::Continue(Probes::open(&**self.transport).await)
    }

    async fn run(&mut self, mut channel: ProbeChannel) -> ControlFlow<(), BrokerError> {
        let lost = self.probes.measure_until_lost(self.transport, &mut channel).await;
        tracing::debug!(error = %Logged(Chain(&lost)), "probes were interrupted");
        channel.replies.control.close_and_delete().await;
        self.probes.forget_probes();
        if lost.is_handle_ended() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(lost)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<()> {
        self.probes.forget_probes();
        if error.is_handle_ended() {
            return ControlFlow::Break(());
        }
        let is_retried_soon = error.is_waited_out();
        let error = Logged(Chain(error));
        if is_retried_soon {
            tracing::debug!(%error, "probes were interrupted");
        } else {
            tracing::warn!(
                %error,
                "cannot measure how long requests wait in their queues: under overload, methods may run \
                 although their callers have given up"
            );
        }
        ControlFlow::Continue(())
    }

    fn delay(&self, error: &BrokerError, backoff: &mut Backoff) -> Duration {
        if error.is_waited_out() {
            backoff.delay_after(error)
        } else {
            REFUSED_RETRY_DELAY
        }
    }
}

async fn request_depth(
    transport: &Arc<dyn Transport>,
    queue: usize,
    name: &str,
    asked: Instant,
) -> StepResult {
    let depth = match ShortStr::new(name) {
        Ok(name) => transport.depth(&name).await,
        Err(_) => None,
    };
    StepResult::Depth { queue, asked, depth }
}

async fn publish(publisher: &Arc<dyn Publisher>, id: ProbeId, outgoing: Outgoing) -> StepResult {
    let published = publisher.publish(outgoing).await;
    StepResult::Probe { id, published }
}

/// Returns a probe to publish. `None` if the name of the queue is too long, which never happens
/// because the server has checked the name.
fn probe_message(
    id: ProbeId,
    queue: &str,
    priority: u8,
    ttl: Duration,
    address: &ShortStr,
) -> Option<Outgoing> {
    Some(Outgoing {
        queue: ShortStr::new(queue).ok()?,
        mandatory: false,
        message: Message {
            properties: Properties {
                kind: Some(ShortStr::from_static(PROBE_TYPE)),
                correlation_id: Some(ShortStr::new(id.to_string()).ok()?),
                reply_to: Some(address.clone()),
                expiration: Some(ttl),
                priority: (priority > 0).then_some(priority),
                ..Properties::default()
            },
            body: bytes::Bytes::new(),
        },
        send_token: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_probe_can_be_read_back() {
        let id = ProbeId {
            server: Uuid::new_v4(),
            queue: 3,
            number: u64::MAX,
        };
        assert_eq!(ProbeId::parse(&id.to_string()), Some(id));
        for text in ["", "a.b.c", "1.2", "user:1"] {
            assert_eq!(ProbeId::parse(text), None, "{text:?}");
        }
    }
}
