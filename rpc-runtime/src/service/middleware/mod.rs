//! Layers around the methods of a server, and what they share with layers around a client's calls.

use std::error::Error;

mod attempts;
mod authorize;
mod handler;
mod stack;

pub(crate) use attempts::Attempts;
pub use authorize::Authorize;
pub use handler::{Handler, HandlerLayer, IncomingCall};
pub(crate) use handler::{ServiceWrapper, service_wrapper};
pub(crate) use stack::Stack;

/// The error type of layers, as in tower.
pub type BoxError = Box<dyn Error + Send + Sync>;
