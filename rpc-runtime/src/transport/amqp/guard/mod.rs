//! A guard between the socket and what reads from it.
//!
//! A peer that can publish to a queue chooses the properties and the routing key of the messages
//! that its consumers get, and RabbitMQ does not validate all of them. Some make lapin close the
//! connection or overflow its stack. The broker then delivers the message again, with the same
//! effect. So every frame that a broker sends is checked first:
//!
//! - Bodies and heartbeats pass unchanged.
//! - [`methods`]: short strings that are not UTF-8 are repaired in place.
//! - [`content`]: a content header that cannot be read, or is larger than a frame, is replaced by
//!   one with the readable properties, but without most headers. A [`mark`] tells the layers above
//!   the reason.
//! - A `channel.close-ok` that lapin does not expect is left out; see [`channels`].
//! - Anything that no broker sends ends the connection with an error, here or in what reads next.
//!
//! The bytes that lapin writes pass unchanged, except for escaped [`ids`], which are restored, and
//! frames of closed [`channels`], which are left out.
//!
//! [`frames`] finds the frames, and [`filter`] combines the parts. Everything here is pure: no I/O.

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
pub(super) mod samples;
mod violation;

pub(super) use channels::{CLOSE, CLOSE_OK, FrameStart};
#[cfg(any(test, fuzzing))]
pub(crate) use checks::check_any_bytes;
pub(super) use content::read_value;
pub(super) use cursor::{Cursor, flag as property_flag};
pub(crate) use filter::Filter;
pub(super) use frames::{BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD, PREFIX_LEN};
pub(super) use ids::restore_id;
pub(super) use outgoing::{Next, OutgoingFilter};
pub(super) use violation::ProtocolViolation;
