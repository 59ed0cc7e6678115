//! Frames by hand on plain sockets, with and without the guarantees of this library.

mod acks;
mod bare;
mod frames;
mod guaranteed;
mod incoming;
mod running;
mod socket;
mod unconfirmed;

pub(super) use bare::Bare;
pub(super) use guaranteed::Guaranteed;
