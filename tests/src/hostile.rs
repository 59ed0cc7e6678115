//! A hostile peer that attacks for as long as it lives: the workers of a queue, all workers, and
//! each caller that calls the hostile peer's own queue, the trap.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::gate::SOON;
use crate::stranger::{Properties, Property, Stranger, long, nested, short};
use crate::until;

/// The pause between two attacks.
const PAUSE: Duration = Duration::from_millis(2);

/// The pause before the peer reconnects. The broker closes the channel after some messages.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// How many calls to the trap the peer remembers.
const MAX_CALLS: usize = 64;

/// A hostile peer. It attacks until it is dropped.
#[derive(Debug)]
pub struct Hostile {
    sent: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Hostile {
    /// Starts to attack the workers of the queue `victim`. The seed decides the attacks. A
    /// caller that calls the queue `trap` reveals its reply address and gets hostile replies.
    /// Returns after the first attack.
    ///
    /// # Errors
    ///
    /// Fails if there is no attack within [`SOON`], for instance without a connection.
    pub async fn start(url: &str, victim: &str, trap: &str, seed: u64) -> anyhow::Result<Self> {
        let sent = Arc::new(AtomicUsize::new(0));
        let mut attack = Attack {
            url: url.to_owned(),
            victim: victim.to_owned(),
            trap: trap.to_owned(),
            random: seed,
            calls: VecDeque::new(),
            sent: Arc::clone(&sent),
        };
        let task = tokio::spawn(async move {
            loop {
                let Err(_) = attack.run().await;
                sleep(RECONNECT_PAUSE).await;
            }
        });
        let hostile = Self {
            sent,
            _task: AbortOnDropHandle::new(task),
        };
        hostile.has_sent(1).await?;
        Ok(hostile)
    }

    /// Returns how many attacks were sent. An attack on a caller is one or two messages, or none
    /// while no caller is known. Any other attack is one message.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until this many more attacks were sent.
    ///
    /// # Errors
    ///
    /// Fails if that takes longer than [`SOON`].
    pub async fn has_sent(&self, more: usize) -> anyhow::Result<()> {
        let enough = self.sent() + more;
        until("the hostile peer sends", SOON, async || Ok(self.sent() >= enough)).await
    }
}

/// A call to the trap.
#[derive(Debug, Clone)]
struct Call {
    id: Vec<u8>,
    reply_to: Vec<u8>,
}

struct Attack {
    url: String,
    victim: String,
    trap: String,
    /// The state of the random numbers.
    random: u64,
    /// The latest calls to the trap, the newest first.
    calls: VecDeque<Call>,
    sent: Arc<AtomicUsize>,
}

impl Attack {
    /// Connects, and sends hostile messages. Returns only if that fails, for instance because the
    /// broker has closed the channel.
    async fn run(&mut self) -> anyhow::Result<Infallible> {
        let mut stranger = Stranger::connect(&self.url).await?;
        stranger.declare(&self.trap).await?;
        loop {
            if let Some((properties, _)) = stranger.try_get(&self.trap).await?
                && let Some(call) = read_call(&properties)
            {
                self.calls.truncate(MAX_CALLS - 1);
                self.calls.push_front(call);
            }
            match self.below(3) {
                0 => self.request(&mut stranger).await?,
                1 => self.reply(&mut stranger).await?,
                _ => self.question(&mut stranger).await?,
            }
            self.sent.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
    }

    /// Sends an invalid request to the victim's queue or to its queue for batches.
    async fn request(&mut self, stranger: &mut Stranger) -> anyhow::Result<()> {
        let queue = match self.below(2) {
            0 => self.victim.clone(),
            _ => format!("{}.batch", self.victim),
        };
        let asked = Properties::default()
            .text(Property::ReplyTo, "amq.gen-stranger")
            .text(Property::CorrelationId, "1")
            .text(Property::Type, "write");
        let properties = self.spoiled(asked);
        stranger.publish(&queue, &properties, NONSENSE).await
    }

    /// Sends a reply to a caller of the trap: to no call, to another call, twice, or malformed.
    /// Sends nothing if no caller is known.
    async fn reply(&mut self, stranger: &mut Stranger) -> anyhow::Result<()> {
        let (one, other) = (self.below(MAX_CALLS), self.below(MAX_CALLS));
        let known = self.calls.len();
        if known == 0 {
            return Ok(());
        }
        // The address and the id are often of two calls: the caller gets a reply to another call.
        let Call { reply_to, .. } = self.calls[one % known].clone();
        let Call { id, .. } = self.calls[other % known].clone();
        let address = String::from_utf8(reply_to)?;
        let reply = Properties::default()
            .text(Property::CorrelationId, id)
            .text(Property::ContentType, "application/msgpack")
            .text(Property::Type, "result");
        let (properties, body): (_, &[u8]) = match self.below(3) {
            // The result that the method would return.
            0 => (reply, b"\xc0"),
            1 => (reply.text(Property::Type, "rpc.batch"), NONSENSE),
            _ => (self.spoiled(reply), NONSENSE),
        };
        for _ in 0..=self.below(2) {
            stranger.publish(&address, &properties, body).await?;
        }
        Ok(())
    }

    /// Sends an invalid discovery request to all workers, or with a routing key that is not UTF-8,
    /// which reaches none.
    async fn question(&mut self, stranger: &mut Stranger) -> anyhow::Result<()> {
        let asked = Properties::default()
            .text(Property::ReplyTo, "amq.gen-stranger")
            .text(Property::Type, "rpc.describe");
        let properties = self.spoiled(asked);
        let key: &[u8] = match self.below(2) {
            0 => b"\xff\xfe",
            _ => b"rpc.discovery",
        };
        stranger
            .publish_to("rpc.control", key, &properties, NONSENSE)
            .await
    }

    /// Sets one property to a value that is malformed, forged, or wrong for this message.
    fn spoiled(&mut self, properties: Properties) -> Properties {
        const NOT_UTF8: &[u8] = b"\xff\xfe";
        match self.below(12) {
            0 => properties.text(Property::CorrelationId, NOT_UTF8),
            1 => properties.text(Property::ReplyTo, NOT_UTF8),
            2 => properties.text(Property::Type, NOT_UTF8),
            3 => properties.text(Property::MessageId, NOT_UTF8),
            4 => properties.headers(&nested(b'F', 1200)),
            5 => properties.headers(&nested(b'A', 1200)),
            6 => properties.headers(&[short(NOT_UTF8), b"S".to_vec(), long(b"x")].concat()),
            // A header `a` of the type `?`, which does not exist.
            7 => properties.headers(b"\x01a?"),
            8 => properties.text(Property::Type, "x\n2026-01-01 ERROR forged"),
            9 => properties.text(Property::ReplyTo, "payments"),
            10 => properties.text(Property::ContentType, "image/png"),
            _ => properties.text(Property::Type, "rpc.batch"),
        }
    }

    /// Returns a number below `limit`, by splitmix64.
    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (mixed ^ (mixed >> 31)) >> 32;
        usize::try_from(mixed).unwrap_or(0) % limit
    }
}

/// Not valid arguments, not a valid result, not a batch.
const NONSENSE: &[u8] = b"\xff{[\x00";

/// Reads the correlation id and the reply address from properties on the wire. Returns `None` if
/// either is missing or the properties are malformed.
fn read_call(wire: &[u8]) -> Option<Call> {
    // Behind the flags are those properties whose flags are set, in the order of `Property`.
    let (flags, mut rest) = wire.split_first_chunk::<2>()?;
    let flags = u16::from_be_bytes(*flags);
    let has = |property: Property| flags & 1 << (15 - property as u16) != 0;
    for property in [Property::ContentType, Property::ContentEncoding] {
        if has(property) {
            (_, rest) = take_short(rest)?;
        }
    }
    if has(Property::Headers) {
        let (size, behind) = rest.split_first_chunk::<4>()?;
        rest = behind.get(usize::try_from(u32::from_be_bytes(*size)).ok()?..)?;
    }
    // One byte each.
    let numbers = [Property::DeliveryMode, Property::Priority];
    rest = rest.get(numbers.into_iter().filter(|number| has(*number)).count()..)?;
    if !has(Property::CorrelationId) || !has(Property::ReplyTo) {
        return None;
    }
    let (id, rest) = take_short(rest)?;
    let (reply_to, _) = take_short(rest)?;
    Some(Call { id, reply_to })
}

/// Reads a short string. Returns it and the bytes after it.
fn take_short(wire: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&size, behind) = wire.split_first()?;
    let (text, behind) = behind.split_at_checked(usize::from(size))?;
    Some((text.to_vec(), behind))
}
