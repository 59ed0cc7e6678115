//! Runs the methods of a service, whether a request came from a queue, from the control exchange or
//! from a client in the same process.
//!
//! A [`Dispatcher`] finds the method and decides by the [`Rules`] whether it runs. An [`Executor`]
//! runs it. This module uses neither queues nor connections.

mod admission;
pub(crate) mod arguments;
mod cancellation;
mod context;
mod decision;
mod deduplicator;
mod dispatcher;
mod executor;
mod extensions;
#[cfg(test)]
mod fixtures;
mod incoming;
mod incoming_error;
mod incoming_inbox;
mod invocation;
mod item_sink;
mod job;
mod method_record;
pub(crate) mod middleware;
mod recent_duration;
mod redelivery;
mod request_log;
mod return_type;
mod rules;
mod stats;
mod streaming;

pub(crate) use admission::Received;
pub(crate) use cancellation::{CancellationWatch, Cancellations};
pub use context::Context;
pub(crate) use context::{ambient_deadline, with_ambient_deadline};
pub(crate) use decision::{AdmittedRequest, Decision, ReplyTo, StreamRequest};
pub(crate) use deduplicator::{CorrelationId, Deduplicator, DeliveryAction, Origin, RequestKey};
pub(crate) use dispatcher::{Dispatcher, ServedService};
pub(crate) use executor::{Executor, RequestSource, Response, RunResult};
pub use extensions::Extensions;
pub use incoming::Incoming;
pub use incoming_error::IncomingError;
pub(crate) use incoming_inbox::IncomingInbox;
#[cfg(test)]
pub(crate) use incoming_inbox::counted as counted_inboxes;
pub use invocation::{Answer, Invocation, Readable, Service, Unreadable, ViaDisplay, ViaSerialize};
pub(crate) use item_sink::{Credit, ItemSink, SendPermit};
pub(crate) use job::{
    AfterFailure, DEAD_LETTER_WAIT, JobFailure, REDELIVERED_BATCH_WAIT, RETURNED_PAUSE, SHORTEST_WAIT,
    next_wait, outcome_of, rounded_up, take_returned_pause, waits_of_all,
};
pub use job::{dead_queue, retry_queues};
pub(crate) use method_record::MethodRecord;
pub(crate) use redelivery::{redelivery_count, set_redelivery_count};
pub(crate) use request_log::{PriorState, RequestLabel, RequestLog};
pub use return_type::{IsResult, NoResult, ResultType};
pub(crate) use rules::{ForbiddenReplyAddress, Rules};
pub(crate) use stats::Tally;
pub(crate) use streaming::end_of_stream;
