//! The limits of what a handle sends and accepts.

/// The largest bodies, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) sent: usize,
    pub(super) accepted: usize,
}
