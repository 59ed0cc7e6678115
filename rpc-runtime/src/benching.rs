//! The parts of a call that wait for nothing, as plain functions: the micro-benchmarks run them (`benches/micro`), which are a
//! crate of their own and see nothing else that is internal.
//!
//! No part of the public interface: it may change in any release.

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
    Message, NamedArguments, ReplyAddresses, Request, ShortStr, read_batch, write_batch,
};

use crate::service::{Decision, Dispatcher, Invocation, Received, RequestLog, Rules, Service, run};
use crate::transport::amqp::guard::Filter;

/// How long the callers of all calls here wait.
const TIME_TO_LIVE: Option<Duration> = Some(Duration::from_secs(30));

/// Writes a call's arguments, as a caller does.
///
/// # Errors
///
/// Where the codec cannot write them.
pub fn encode_arguments(
    codec: Codec,
    names: &'static [&'static str],
    values: &impl EncodeArguments,
) -> Result<Bytes, EncodeError> {
    codec.encode(&NamedArguments { names, values })
}

/// Reads a call's arguments, as a worker does.
///
/// # Errors
///
/// Where they are not in the body.
pub fn decode_arguments<'a, A: DecodeArguments<'a>>(
    codec: Codec,
    names: &'static [&'static str],
    body: &'a [u8],
) -> Result<A, DecodeError> {
    codec.decode_seed(ArgumentsSeed::new(names), body)
}

/// Writes an answer, as a worker does.
///
/// # Errors
///
/// Where the codec cannot write it.
pub fn encode_answer<T: Serialize + 'static>(codec: Codec, answer: &T) -> Result<Bytes, EncodeError> {
    codec.encode_answer(answer)
}

/// Reads an answer, as a caller does.
///
/// # Errors
///
/// Where it is not in the body.
pub fn decode_answer<T: DeserializeOwned + 'static>(codec: Codec, body: &[u8]) -> Result<T, DecodeError> {
    codec.decode_answer(body)
}

/// Calls that leave in one message.
pub struct Calls<'a>(Vec<BatchedCallRef<'a>>);

impl<'a> Calls<'a> {
    /// So many of one method, all with the same arguments.
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

    /// The message's body.
    pub fn write_batch(&self) -> Bytes {
        write_batch(&self.0)
    }
}

/// The calls that are in a message's body; nothing where it is none of calls.
pub fn read_batch_of_calls(body: &Bytes) -> Option<Vec<impl Sized + use<>>> {
    read_batch::<BatchedCall>(body).ok()
}

/// What waits to leave, by lanes.
pub struct Waiting<K, T>(Batcher<K, T>);

impl<K: Eq + Hash + Clone, T> Waiting<K, T> {
    /// Nothing waits.
    #[allow(clippy::new_without_default)] // as of the batcher itself
    pub fn new() -> Self {
        Self(Batcher::new())
    }

    /// An item comes, of so many bytes, of which as many as are wanted fill a message.
    pub fn push(&mut self, lane: K, item: T, bytes: usize, wanted: u16) {
        self.0.push(lane, item, Load::new(bytes, wanted));
    }

    /// What leaves next in one message, as far as something may.
    pub fn leave(&mut self) -> Option<(K, Vec<T>)> {
        self.0.next()
    }

    /// A message of this lane is not under way any more.
    pub fn done(&mut self, lane: &K) {
        self.0.done(lane);
    }
}

/// A request as the broker delivers it.
#[derive(Clone)]
pub struct Arrived(Message);

impl Arrived {
    /// A request that came for the first time, of a caller who takes direct replies.
    pub fn new(method: &str, codec: Codec, arguments: Bytes) -> Self {
        let request = Request {
            method: ShortStr::new(method).ok(),
            codec,
            correlation_id: Some(ShortStr::from_uuid(Uuid::from_u128(1))),
            // About as long as RabbitMQ's own.
            reply_to: ShortStr::new(format!("amq.rabbitmq.reply-to.{:060}", 1)).ok(),
            time_to_live: TIME_TO_LIVE,
            persistent: false,
            priority: None,
            app_id: None,
            user_id: None,
            headers: Headers::default(),
            batches: false,
            dead_lettered: None,
            arguments,
        };
        Self(request.into_message())
    }
}

/// What a worker decides by.
pub struct Worker {
    dispatcher: Dispatcher,
    rules: Rules,
    log: RequestLog,
}

impl Worker {
    /// A worker that serves one service.
    ///
    /// # Errors
    ///
    /// Where two methods of the service have the same name.
    pub fn new(service: impl Service) -> Result<Self, ServerError> {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add(Arc::new(service), "bench")?;
        let rules = Rules {
            reply_addresses: ReplyAddresses::default(),
            max_accepted_bytes: usize::MAX,
            max_sent_bytes: usize::MAX,
            max_deliveries: 20,
            admission: true,
        };
        let log = RequestLog::new("");
        Ok(Self {
            dispatcher,
            rules,
            log,
        })
    }

    /// What is to run for a request that arrives now; nothing where it is refused or dropped.
    pub fn decide(&self, request: Arrived, now: Instant) -> Option<(&dyn Service, Invocation)> {
        match self
            .dispatcher
            .decide(request.0, false, Received::at(now), now, &self.rules)
        {
            Ok(Decision::Run {
                service, invocation, ..
            }) => Some((service, invocation)),
            _ => None,
        }
    }
}

impl Worker {
    /// Runs a method; the body of its reply, or nothing where the method waits for something.
    pub fn run(&self, service: &dyn Service, invocation: &Invocation) -> Option<Bytes> {
        let handled = run(service, "", &self.log, &self.rules, invocation).now_or_never()?;
        Some(handled.reply.body)
    }
}

/// What a broker sends, on its way to lapin.
pub struct Guard(Filter);

impl Guard {
    /// A guard of a connection that has just been made.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(Filter::new(128 * 1024))
    }

    /// Looks at frames in the buffer that lapin reads them from; how many bytes of them pass as they are.
    pub fn pass(&mut self, frames: &mut [u8]) -> usize {
        self.0.scan(frames).unwrap_or(0)
    }
}
