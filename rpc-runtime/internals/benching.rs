//! The synchronous parts of a call, for the micro-benchmarks (`benches/micro`) and for the counts
//! of instructions (`benches/instructions`).
//!
//! They are in other crates and see no other internals. Not part of the public API: this module
//! may change in any release.

use std::borrow::Cow;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use uuid::Uuid;

use crate::codec::{Codec, DecodeError, EncodeError};
use crate::error::ServerError;
use crate::protocol::{
    ArgumentsSeed, BatchedCall, BatchedCallRef, Batcher, DecodeArguments, EncodeArguments, Headers, Load,
    MAX_BATCH_CALLS, Message, NamedArguments, ReplyAddresses, Request, ShortStr, read_batch, write_batch,
};

use crate::service::{
    AdmittedRequest, Decision, Dispatcher, Executor, Received, RequestLog, RequestSource, Rules, Service,
};
use crate::transport::amqp::guard::Filter;
use crate::transport::amqp::wire::benches as wire;

/// The time to live of all calls and requests in the benchmarks.
const TIME_TO_LIVE: Option<Duration> = Some(Duration::from_secs(30));

/// Encodes a call's arguments, as a caller does.
///
/// # Errors
///
/// Fails if the codec cannot write them.
pub fn encode_arguments(
    codec: Codec,
    names: &'static [&'static str],
    values: &impl EncodeArguments,
) -> Result<Bytes, EncodeError> {
    codec.encode(&NamedArguments { names, values })
}

/// Decodes a call's arguments, as a worker does.
///
/// # Errors
///
/// Fails if the body does not contain them.
pub fn decode_arguments<'a, A: DecodeArguments<'a>>(
    codec: Codec,
    names: &'static [&'static str],
    body: &'a [u8],
) -> Result<A, DecodeError> {
    codec.decode_seed(ArgumentsSeed::new(names), body)
}

/// Encodes an answer, as a worker does.
///
/// # Errors
///
/// Fails if the codec cannot write it.
pub fn encode_result<T: Serialize + 'static>(codec: Codec, answer: &T) -> Result<Bytes, EncodeError> {
    codec.encode_result(answer)
}

/// Decodes an answer, as a caller does.
///
/// # Errors
///
/// Fails if the body does not contain it.
pub fn decode_result<T: DeserializeOwned + 'static>(codec: Codec, body: &[u8]) -> Result<T, DecodeError> {
    codec.decode_result(body)
}

/// Calls that are published in one batch.
pub struct Calls<'a>(Vec<BatchedCallRef<'a>>);

impl<'a> Calls<'a> {
    /// Creates `count` calls of one method with the same arguments.
    pub fn new(count: usize, method: &'a str, arguments: &'a [u8]) -> Self {
        let call = |id| BatchedCallRef {
            id: Uuid::from_u128(id),
            method,
            time_to_live: TIME_TO_LIVE,
            arguments,
            headers: Cow::Owned(Headers::default()),
        };
        Self((0..).take(count).map(call).collect())
    }

    /// Returns the body of their message.
    pub fn write_batch(&self) -> Bytes {
        write_batch(&self.0)
    }
}

/// Reads the calls of a batch. Returns `None` if the body is not a batch of calls.
pub fn read_batch_of_calls(body: &Bytes) -> Option<Vec<impl Sized + use<>>> {
    read_batch::<BatchedCall>(body).ok()
}

/// Items that wait to be published, by lane.
pub struct Waiting<K, T>(Batcher<K, T>);

impl<K: Eq + Hash + Clone, T> Waiting<K, T> {
    /// Creates a batcher without items.
    #[allow(clippy::new_without_default)] // like the batcher itself
    pub fn new() -> Self {
        Self(Batcher::new(usize::MAX))
    }

    /// Adds an item of `bytes` bytes. `batch_size` such items fill a batch.
    pub fn push(&mut self, lane: K, item: T, bytes: usize, batch_size: u16) {
        self.0.push(lane, item, Load::new(bytes, batch_size));
    }

    /// Returns the next batch, or `None` if nothing may be published now.
    pub fn leave(&mut self) -> Option<(K, Vec<T>)> {
        self.0.take_message(|_, _| MAX_BATCH_CALLS)
    }

    /// Marks a batch of this lane as confirmed.
    pub fn done(&mut self, lane: &K) {
        self.0.done(lane);
    }
}

/// A request that the broker has delivered.
#[derive(Clone)]
pub struct Arrived(Message);

impl Arrived {
    /// Creates a first delivery of a request from a caller with direct replies.
    pub fn new(method: &str, codec: Codec, arguments: Bytes) -> Self {
        let request = Request {
            method: ShortStr::new(method).ok(),
            codec,
            correlation_id: Some(ShortStr::from_uuid(Uuid::from_u128(1))),
            // As long as a direct reply address of RabbitMQ.
            reply_to: ShortStr::new(format!("amq.rabbitmq.reply-to.{:060}", 1)).ok(),
            time_to_live: TIME_TO_LIVE,
            persistent: false,
            priority: None,
            app_id: None,
            user_id: None,
            headers: Headers::default(),
            asks_batch_size: false,
            credit: None,
            sends_items: false,
            dead_lettered: None,
            arguments,
        };
        Self(request.into_message())
    }
}

/// A request whose method may run.
pub struct Admitted<'a>(AdmittedRequest<'a>);

/// A worker without a broker.
pub struct Worker(Executor);

impl Worker {
    /// Creates a worker for one service.
    ///
    /// # Errors
    ///
    /// Fails if two methods of the service have the same name.
    pub fn new(service: impl Service) -> Result<Self, ServerError> {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add(Arc::new(service), "bench")?;
        let rules = Rules {
            reply_addresses: ReplyAddresses::default(),
            max_accepted_bytes: usize::MAX,
            max_sent_bytes: usize::MAX,
            max_deliveries: 20,
            is_classic: false,
            admission: true,
            layers_may_answer: false,
        };
        let log = RequestLog::new("");
        Ok(Self(Executor::new(dispatcher, rules, log, RequestSource::Queue)))
    }

    /// Decides on a request that arrives now. Returns `None` if it is refused or dropped.
    pub fn decide(&self, request: Arrived, now: Instant) -> Option<Admitted<'_>> {
        match self.0.decide(request.0, false, Received::at(now), now) {
            Ok(Decision::Run(admitted)) => Some(Admitted(admitted)),
            _ => None,
        }
    }

    /// Runs a method and returns the body of its reply, or `None` if the method is not ready at
    /// once.
    pub fn run(&self, request: &Admitted<'_>) -> Option<Bytes> {
        let handled = self.0.run("", &request.0).now_or_never()?;
        Some(handled.reply.body)
    }
}

/// The guard between a broker's socket and lapin.
pub struct Guard(Filter);

impl Guard {
    /// Creates the guard of a new connection.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(Filter::new(128 * 1024))
    }

    /// Checks frames in the buffer that lapin reads. Returns how many bytes pass unchanged.
    pub fn pass(&mut self, frames: &mut [u8]) -> usize {
        self.0.scan(frames).unwrap_or(0)
    }
}

/// The frames that the task of a connection writes.
pub struct Outgoing(wire::Outgoing);

impl Outgoing {
    /// Creates an empty buffer.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(wire::Outgoing::new())
    }

    /// Encodes a request, in place of what was encoded before. Returns how many bytes that are, or
    /// `None` if it cannot be sent.
    pub fn publish(&mut self, request: &Arrived) -> Option<usize> {
        let queue = ShortStr::from_static("directory");
        self.0.publish(&queue, &request.0).ok()
    }

    /// Encodes an acknowledgement, in place of what was encoded before. Returns how many bytes that
    /// are.
    pub fn acknowledge(&mut self, tag: u64) -> usize {
        self.0.acknowledge(tag)
    }
}

/// The frames that the task of a connection reads.
pub struct Incoming(wire::Incoming);

impl Incoming {
    /// Creates a connection with one channel.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(wire::Incoming::new())
    }

    /// Returns the frames of a request that is delivered, or `None` if it cannot be sent.
    pub fn delivery(request: &Arrived) -> Option<Vec<u8>> {
        wire::delivery(&request.0).ok()
    }

    /// Returns the frame of a broker's confirm.
    pub fn confirm(tag: u64) -> Vec<u8> {
        wire::confirm(tag)
    }

    /// Checks whole frames and gives them to their channel. Returns how many messages and confirms
    /// they are, or `None` if they violate the protocol, or if a frame other than a body does not
    /// arrive in one read.
    pub fn receive(&mut self, frames: &mut [u8]) -> Option<u64> {
        self.0.receive(frames)
    }
}
