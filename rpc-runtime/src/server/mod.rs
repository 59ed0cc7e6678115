//! The worker's side: a server takes requests from its queues, runs methods and answers.

mod answers;
mod batched;
mod beacon;
mod builder;
mod built_in;
mod debt;
mod identity;
mod line;
mod outlet;
mod plan;
mod post;
mod queue_delay;
mod running;
mod serve;

pub(crate) use beacon::{DISCOVERY, MAX_WAIT};
pub use builder::Server;
pub(crate) use plan::Host;
pub use running::RunningServer;
