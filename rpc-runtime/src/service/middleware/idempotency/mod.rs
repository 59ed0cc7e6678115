//! A layer that answers a repeated request with the outcome of the first delivery.

mod in_memory;
mod in_progress;
mod layer;
mod store;
mod stored_outcome;

pub use in_memory::InMemoryStore;
pub use layer::Idempotency;
pub use store::IdempotencyStore;
pub use stored_outcome::StoredOutcome;
