//! The caller's side: clients, and the calls in flight.

mod builder;
mod call;
mod call_path;
mod caller;
mod carrier;
mod destination;
mod dynamic;
mod exact;
mod fate;
mod in_process;
mod interned;
mod invalid_call;
mod limiter;
mod link;
pub(crate) mod middleware;
mod observed;
mod options;
mod outbox;
mod pending;
mod plan;
mod presence;
mod progress;
mod slot;
mod stub;
mod time_limit;

pub use builder::{ClientBuilder, ServiceClient};
pub use call::{Call, FallibleCall};
pub(crate) use caller::Caller;
pub use dynamic::DynamicClient;
pub use interned::InvalidDescription;
pub use limiter::WhenFull;
pub(crate) use options::CallerOptions;
pub use stub::Client;
