//! A guard between the socket and lapin's reader.
//!
//! A peer who can publish to a queue chooses the properties and the routing key of what its
//! consumers get, and RabbitMQ does not look at all of them. Over some, lapin ends the connection
//! or overflows its stack, and the message comes back to do the same again. So every frame that a
//! broker sends is looked at before lapin sees it:
//!
//! - Bodies and heartbeats pass as they are, in lapin's own buffer.
//! - [`methods`]: short strings that are not UTF-8 are mended in their place.
//! - [`content`]: properties that cannot be read are replaced by those of them that can, and a
//!   [`mark`], by which the layers above know.
//! - What no broker sends ends the connection with an error.
//!
//! What lapin writes passes as it is, but for [`ids`] that had to be escaped.
//!
//! [`frames`] finds the frames, [`filter`] puts the parts together; both are pure. [`stream`] is
//! the stream that lapin gets.

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
pub(crate) use checks::any_bytes;
#[cfg(feature = "__bench")]
pub(crate) use filter::Filter;
pub(super) use stream::Guarded;
pub(super) use violation::ProtocolViolation;
