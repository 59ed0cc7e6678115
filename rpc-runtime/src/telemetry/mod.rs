//! Telemetry of calls and requests: spans, trace context, metrics, and a rate limit for logs.
//!
//! Takes plain values and knows neither clients nor servers. It costs next to nothing if no spans
//! or metrics are collected.

mod call_span;
mod counted;
mod counter;
#[cfg(feature = "metrics")]
mod handles;
mod in_span;
mod items;
mod log_limit;
mod method;
mod metrics;
mod name;
mod outcome;
mod propagation;
mod request_span;
mod span;
mod stream_item;

pub(crate) use call_span::{CallInfo, CallKind, CallSpan, record_client_wait};
pub use items::ItemCounts;
pub(crate) use items::{ItemFlow, ItemObservers, ItemTally};
pub(crate) use log_limit::{EventKind, LogLimit, Suppressed};
pub(crate) use method::Method;
#[cfg(feature = "metrics")]
pub use metrics::describe as describe_metrics;
pub(crate) use metrics::{Event, count};
pub(crate) use name::Name;
pub(crate) use outcome::Outcome;
pub(crate) use request_span::{RequestEnd, RequestInfo, RequestSpan};
pub use stream_item::{SentBy, StreamItem};
