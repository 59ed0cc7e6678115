//! Messages, their confirms and their acknowledgements on the wire: the *content* of channels.
//!
//! lapin connects, authenticates, opens and closes channels, declares and consumes queues, and
//! sends heartbeats. The content of *our* channels, those that are [attached](Wire::attach), goes
//! past it: it is most of the traffic, and costs less without lapin's thread and its copies.
//!
//! One task owns the socket ([`driver`]). It passes lapin's frames through a [`pipe`], whose other
//! end is a [stream](lapin_stream) for lapin, and writes ours between them.
//!
//! From the bottom up:
//!
//! - [`encode`] and [`decode`] convert methods and messages, and [`properties`] reads a content
//!   header. Pure.
//! - [`demux`] separates the content of our channels from everything else that the broker sends.
//!   Pure, except that it hands deliveries, returns and confirms to their channels.
//! - [`outbox`] holds our frames on their way to the socket, and [`pipe`] the bytes on their way
//!   between lapin and the driver. Pure.
//! - [`gathering`] decides when the driver lets other tasks publish before it writes. Pure.
//! - [`shared`] is the state that three parties share: the tasks that publish, lapin, and the
//!   driver.
//! - [`lapin_stream`] and [`driver`] do the work.
//!
//! A confirm passes from the demux through its [`ContentChannel`] to the channel's publisher, which
//! is its [`ConfirmSink`], and from there to the listener of the message.

#[cfg(feature = "__bench")]
pub(crate) mod benches;
#[cfg(any(test, fuzzing))]
mod checks;
mod decode;
mod demux;
mod driver;
mod encode;
#[cfg(any(test, fuzzing))]
mod frame_checks;
mod gathering;
mod lapin_stream;
#[cfg(any(test, fuzzing))]
mod model;
mod outbox;
mod pipe;
mod properties;
mod shared;

#[cfg(any(test, fuzzing))]
pub(crate) use checks::{received, received_headers, sent_and_received};
pub(super) use decode::Confirm;
pub(super) use demux::return_id;
pub(super) use driver::start;
pub(super) use encode::Acknowledgement;
#[cfg(any(test, fuzzing))]
pub(crate) use frame_checks::check_any_frames;
pub(super) use shared::{ConfirmSink, ContentChannel, NotSent, Wire};
