//! Runs the methods of a service, wherever a request came from: a queue, or a client in the same
//! process.
//!
//! [`dispatch`] decides about a request, [`executor`] runs its method. Knows neither queues nor
//! connections.

mod admission;
pub(crate) mod arguments;
mod context;
mod deduplication;
mod dispatch;
mod executor;
mod extensions;
mod invocation;
pub(crate) mod middleware;
mod pace;
mod request_log;
mod return_type;
mod stats;

pub(crate) use admission::Received;
pub use context::Context;
pub(crate) use context::ambient_deadline;
pub(crate) use deduplication::{Arrival, Id, Key, Origin, Runs, returns};
pub(crate) use dispatch::{Decision, Dispatcher, Hosted, NoReplyAddress, Record, ReplyTo, Rules};
pub(crate) use executor::{Handled, run};
pub use extensions::Extensions;
pub use invocation::{Answer, Invocation, Readable, Service, Unreadable, ViaDisplay, ViaSerialize};
pub(crate) use request_log::{Names, RequestLog};
pub use return_type::{NoResult, Probe, ResultType};
pub(crate) use stats::Tally;
