//! Sends probes through a server's queues while requests wait in them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::QueueDelays;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{Message, PROBE, Properties, Reply, ReplyKind, ShortStr};
use crate::transport::{
    Backoff, Departure, Outgoing, Published, Publisher, ReplyLink, ReplyQueue, Subscription, Transport,
};

/// How long a probe may stay in a queue. It is replaced long before.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// How long a server that may not open a reply address does without probes before it tries again.
const RETRY: Duration = Duration::from_secs(60);

/// Names a probe: its server, the queue and the priority that it measures, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeId {
    server: Uuid,
    queue: u16,
    priority: u8,
    number: u64,
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            queue,
            priority,
            number,
        } = self;
        write!(f, "{}.{queue}.{priority}.{number}", server.simple())
    }
}

impl ProbeId {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '.');
        Some(Self {
            server: Uuid::try_parse(parts.next()?).ok()?,
            queue: parts.next()?.parse().ok()?,
            priority: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        })
    }
}

/// Whether a message on a request queue is a probe, of this server or another one.
pub(crate) fn is_probe(properties: &Properties) -> bool {
    properties
        .kind
        .as_ref()
        .is_some_and(|kind| kind.as_str() == PROBE)
}

/// The answer to another server's probe.
pub(crate) fn probe_reply(properties: &Properties) -> Option<Outgoing> {
    let reply = Reply::new(ReplyKind::Result, crate::codec::Codec::Text, bytes::Bytes::new());
    Some(Outgoing {
        queue: properties
            .reply_to
            .clone()
            .filter(|queue| !queue.as_str().is_empty())?,
        mandatory: false,
        message: reply.into_message(Some(properties.correlation_id.clone()?)),
        departure: Departure::default(),
    })
}

/// The probes of one server: which of its queues they measure, and where their returns are noted.
#[derive(Debug)]
pub(crate) struct Probes {
    server: Uuid,
    queues: Vec<Arc<QueueDelays>>,
    wake: Arc<Notify>,
    numbers: AtomicU64,
}

/// A probe, and what became of its publication.
type Sent = (ProbeId, Published);

impl Probes {
    pub(crate) fn new() -> Self {
        Self {
            server: Uuid::new_v4(),
            queues: Vec::new(),
            wake: Arc::default(),
            numbers: AtomicU64::new(0),
        }
    }

    /// Adds a queue to measure.
    pub(crate) fn add(&mut self, queue: &str) -> Arc<QueueDelays> {
        let delays = Arc::new(QueueDelays::new(queue, &self.wake));
        self.queues.push(Arc::clone(&delays));
        delays
    }

    /// Notes that a probe came back, if it is one of this server's.
    pub(crate) fn returned(&self, correlation_id: Option<&ShortStr>, now: Instant) -> bool {
        let id = correlation_id.and_then(|id| ProbeId::parse(id.as_str()));
        let Some(id) = id.filter(|id| id.server == self.server) else {
            return false;
        };
        if let Some(queue) = self.queues.get(usize::from(id.queue)) {
            queue.returned(id.priority, id.number, now);
        }
        true
    }

    /// Sends probes whenever they are due, until the handle is closed.
    pub(crate) async fn send(&self, transport: &Arc<dyn Transport>) {
        let mut backoff = Backoff::new();
        loop {
            self.until_due().await;
            let since = Instant::now();
            let lost = self.open_and_send(transport).await;
            self.forget();
            match lost {
                closed if closed.is_of_ended_handle() => return,
                lost if lost.is_worth_another_try() => {
                    tracing::debug!(error = %Logged(Chain(&lost)), "probes were interrupted");
                    backoff.worked_for(since.elapsed());
                    backoff.wait_after(&lost).await;
                }
                refused => {
                    tracing::warn!(
                        error = %Logged(Chain(&refused)),
                        "the wait in the request queues cannot be measured: under overload, requests run \
                         whose callers have given up"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until a probe is due.
    async fn until_due(&self) {
        loop {
            let woken = self.wake.notified();
            match self.next_due() {
                Some(due) => return sleep_until(due).await,
                None => woken.await,
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.queues.iter().filter_map(|queue| queue.next_probe(now));
        due.map(|(due, _)| due).min()
    }

    /// Sends probes until the way to the broker is lost.
    async fn open_and_send(&self, transport: &Arc<dyn Transport>) -> BrokerError {
        let link = match transport.open_replies(ReplyQueue::Direct, None).await {
            Ok(link) => link,
            Err(error) => return error,
        };
        let ReplyLink {
            address,
            mut replies,
            publisher,
            ..
        } = link;
        let publisher = match publisher {
            Some(publisher) => publisher,
            None => match transport.open_publisher().await {
                Ok(publisher) => publisher,
                Err(error) => return error,
            },
        };
        let lost = self.send_by(&address, &mut replies, &publisher).await;
        replies.control.retire().await;
        lost
    }

    async fn send_by(
        &self,
        address: &ShortStr,
        replies: &mut Subscription,
        publisher: &Arc<dyn Publisher>,
    ) -> BrokerError {
        let mut under_way: FuturesUnordered<BoxFuture<'_, Sent>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some((id, published)) = under_way.next() => self.published(id, &published),
                reply = replies.deliveries.next() => match reply {
                    Some(Ok(reply)) => {
                        let id = reply.message.properties.correlation_id.as_ref();
                        self.returned(id, Instant::now());
                        replies.control.settle_up_to(reply.tag);
                    }
                    Some(Err(lost)) => return lost,
                    None => return BrokerError::Lost { source: None },
                },
                lost = publisher.closed() => return lost,
                () = self.until_due() => {
                    for outgoing in self.due(address) {
                        under_way.push(Box::pin(publish(publisher, outgoing)));
                    }
                }
            }
        }
    }

    /// The probes that are due.
    fn due(&self, address: &ShortStr) -> Vec<(ProbeId, Outgoing)> {
        let now = Instant::now();
        let mut all = Vec::new();
        for (index, queue) in self.queues.iter().enumerate() {
            while let Some((_, priority)) = queue.next_probe(now).filter(|(due, _)| *due <= now) {
                let id = ProbeId {
                    server: self.server,
                    queue: u16::try_from(index).unwrap_or(u16::MAX),
                    priority,
                    number: self.numbers.fetch_add(1, Ordering::Relaxed),
                };
                queue.sent(priority, id.number, now);
                match probe(id, queue.queue(), address) {
                    Some(outgoing) => all.push((id, outgoing)),
                    None => queue.lost(priority, id.number),
                }
            }
        }
        all
    }

    fn published(&self, id: ProbeId, published: &Published) {
        let Some(queue) = self.queues.get(usize::from(id.queue)) else {
            return;
        };
        match published {
            Published::Routed => queue.confirmed(id.priority, id.number, Instant::now()),
            Published::Returned | Published::Refused | Published::Withdrawn | Published::Failed { .. } => {
                queue.lost(id.priority, id.number);
            }
        }
    }

    /// Replies to the probes that are out do not come any more.
    fn forget(&self) {
        for queue in &self.queues {
            queue.forget_probes();
        }
    }
}

async fn publish(publisher: &Arc<dyn Publisher>, (id, outgoing): (ProbeId, Outgoing)) -> Sent {
    (id, publisher.publish(outgoing).await)
}

/// The message of a probe.
fn probe(id: ProbeId, queue: &str, address: &ShortStr) -> Option<Outgoing> {
    Some(Outgoing {
        queue: ShortStr::new(queue).ok()?,
        mandatory: false,
        message: Message {
            properties: Properties {
                kind: Some(ShortStr::from_static(PROBE)),
                correlation_id: Some(ShortStr::new(id.to_string()).ok()?),
                reply_to: Some(address.clone()),
                expiration: Some(TIME_TO_LIVE),
                priority: (id.priority > 0).then_some(id.priority),
                ..Properties::default()
            },
            body: bytes::Bytes::new(),
        },
        departure: Departure::default(),
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
            priority: 9,
            number: u64::MAX,
        };
        assert_eq!(ProbeId::parse(&id.to_string()), Some(id));
        for text in ["", "a.b.c.d", "1.2.3", "user:1"] {
            assert_eq!(ProbeId::parse(text), None, "{text:?}");
        }
    }
}
