//! Calls that send a stream of items while their methods run.
//!
//! A method's parameter `Incoming<T>` is a stream in the client's method, and [`SendsItems`] adds
//! it to the call. Once a worker grants credit, [`Upload`] polls it and sends its items.
//! [`ItemSender`](item_sender::ItemSender) decides what is sent. The worker's messages reach the
//! call like those of a method that replies with a stream.

mod item_sender;
mod link;
mod sends_items;
mod upload;

pub(super) use link::{BrokerLink, InProcessLink, ItemPublisher};
pub use sends_items::SendsItems;
pub(super) use upload::Upload;

#[cfg(test)]
mod tests;
