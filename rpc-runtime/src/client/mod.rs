//! The caller's side: clients and their calls.
//!
//! A client prepares a [`Call`]. When the call is awaited, it passes through the client's layers.
//! Then `broker_call` sends its request and waits for the reply. Without a broker, `in_process`
//! runs the handler instead. All these calls of a broker handle share one session, which `session`
//! keeps open. `caller` publishes a broadcast, and `gather` reads the answers, both without the
//! session.

mod backend;
mod batching;
#[cfg(feature = "__tools")]
mod body_as_json;
mod broker_call;
mod builder;
mod call;
mod call_path;
mod call_progress;
mod called_method;
mod caller;
mod control_messages;
mod control_sender;
mod destination;
mod dynamic;
mod encoded_call;
mod encoded_call_limiters;
mod exact_value;
mod failures;
mod gather;
mod in_flight_call;
mod in_flight_calls;
mod in_process;
mod invalid_call;
mod limiter;
mod method_error;
pub(crate) mod middleware;
mod observed;
mod options;
mod plan;
mod queue_check;
mod queued_request;
mod received_reply;
mod reply_router;
mod request_publisher;
mod request_sender;
mod resend;
mod session;
mod session_handle;
mod streaming;
mod stub;
mod time_limit;
mod uploading;

#[cfg(feature = "__tools")]
pub use body_as_json::body_as_json;
pub use builder::{ClientBuilder, ServiceClient};
pub use call::{Call, FallibleCall};
pub use called_method::InvalidDescription;
pub(crate) use caller::Caller;
pub use dynamic::DynamicClient;
pub use encoded_call::EncodedCall;
pub use gather::{Broadcast, FallibleBroadcast, Gather, GatherEnd, Gathered};
pub use limiter::WhenFull;
pub use method_error::MethodError;
pub(crate) use options::CallerOptions;
pub use streaming::{FallibleStreamingCall, StreamingCall};
pub use stub::Client;
pub use uploading::SendsItems;
