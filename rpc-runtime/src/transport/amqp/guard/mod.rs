//! A guard between the socket and lapin's reader.
//!
//! A peer that can publish to a queue chooses the properties and the routing key of the messages
//! that its consumers get, and RabbitMQ does not validate all of them. Some make lapin close the
//! connection or overflow its stack. The broker then delivers the message again, with the same
//! effect. So every frame that a broker sends is checked before lapin reads it:
//!
//! - Bodies and heartbeats pass unchanged, usually in lapin's own buffer.
//! - [`methods`]: short strings that are not UTF-8 are repaired in place.
//! - [`content`]: a content header that cannot be read is replaced by one with the readable
//!   properties and a [`mark`], which tells the layers above the reason.
//! - Anything that no broker sends ends the connection with an error.
//!
//! - A `channel.close-ok` that lapin does not expect is left out; see [`channels`].
//!
//! The bytes that lapin writes pass unchanged, except for escaped [`ids`], which are restored, and
//! frames of closed [`channels`], which are left out.
//!
//! [`frames`] finds the frames, and [`filter`] combines the parts. Both are pure. [`stream`] is the
//! stream that lapin gets.

mod channels;
#[cfg(any(test, fuzzing))]
mod checks;
mod content;
mod cursor;
mod filter;
mod frames;
mod ids;
pub(super) mod mark;
mod methods;
mod outgoing;
#[cfg(test)]
mod samples;
mod stream;
mod violation;

#[cfg(any(test, fuzzing))]
pub(crate) use checks::check_any_bytes;
#[cfg(feature = "__bench")]
pub(crate) use filter::Filter;
pub(super) use stream::Guarded;
pub(super) use violation::ProtocolViolation;
