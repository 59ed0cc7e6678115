//! What an operator sees of calls and requests: spans, the context of traces, metrics, and logs
//! whose rate is limited.
//!
//! Takes plain values, and knows neither clients nor servers. It costs next to nothing if nobody
//! collects spans or metrics.

mod call_span;
mod counted;
mod log_limit;
mod metrics;
mod outcome;
mod propagation;
mod request_span;
mod span;

pub(crate) use call_span::{CallInfo, CallKind, CallSpan, waited_in_client};
pub(crate) use log_limit::{LeftOut, LogLimit};
#[cfg(feature = "metrics")]
pub use metrics::describe as describe_metrics;
pub(crate) use metrics::{Event, count};
pub(crate) use outcome::Outcome;
pub(crate) use request_span::{RequestEnd, RequestInfo, RequestSpan};
