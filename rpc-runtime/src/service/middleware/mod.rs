//! Layers around the methods of a server, and what they share with layers around a client's calls.

use std::error::Error;

mod attempts;
mod authorize;
mod handler;
mod idempotency;
mod layer_list;
mod method_names;
mod shared_service;
mod stack;

pub(crate) use attempts::Attempts;
pub use authorize::Authorize;
pub(crate) use handler::HandlerLayers;
pub use handler::{Handler, HandlerLayer, IncomingCall};
pub use idempotency::{Idempotency, IdempotencyStore, InMemoryStore, StoredOutcome};
pub(crate) use layer_list::LayerList;
pub(crate) use shared_service::SharedService;
pub(crate) use stack::Stack;

/// The error type of layers, as in tower.
pub type BoxError = Box<dyn Error + Send + Sync>;
