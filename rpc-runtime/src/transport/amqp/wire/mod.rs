//! Content on the wire: messages, their confirms and their acknowledgements.
//!
//! lapin connects, authenticates, opens and closes channels, declares and consumes queues, and
//! sends heartbeats. The content of our channels goes past it: what callers and workers publish, deliver
//! and acknowledge is most of the traffic, and costs less without lapin's thread and its copies.
//!
//! One task owns the socket ([`driver`]). It passes lapin's frames through a [`pipe`], whose other
//! end is a [stream](lapin_stream) for lapin, and writes ours between them.
//!
//! From the bottom up:
//!
//! - [`encode`] and [`decode`] convert frames and messages, and [`properties`] reads a content
//!   header. Pure.
//! - [`demux`] separates the content of our channels from everything else that the broker sends.
//!   Pure, except that it hands deliveries and confirms to their channels.
//! - [`shared`] is what the tasks that publish, lapin and the driver share.

#[cfg(any(test, fuzzing))]
mod checks;
mod decode;
mod demux;
mod driver;
mod encode;
mod lapin_stream;
mod pipe;
mod properties;
mod shared;

#[cfg(any(test, fuzzing))]
pub(crate) use checks::{received, received_headers, sent_and_received};
pub(super) use decode::Confirm;
pub(super) use demux::returned_id;
pub(super) use driver::start;
pub(super) use encode::Acknowledgement;
pub(super) use shared::{ConfirmSink, Content, NotSent, Wire};
