//! Broadcasts: a call of all workers of a queue, and the answers that are gathered.

mod answers;
mod broadcast;
mod gathering;
mod stream;
mod target;

pub use broadcast::{Broadcast, FallibleBroadcast};
pub use gathering::GatherEnd;
pub use stream::{Gather, Gathered};
pub(super) use target::GatherTarget;
