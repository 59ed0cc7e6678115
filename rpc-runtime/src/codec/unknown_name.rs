//! The error of parsing one of a few names.

/// A text names none of the values of its type, such as those of [`Codec`](crate::Codec) or
/// [`ReplyQueue`](crate::ReplyQueue). The message lists the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown name: use {names}")]
pub struct UnknownName {
    names: &'static str,
}

impl UnknownName {
    /// The error for a value that has these names.
    pub(crate) const fn new(names: &'static str) -> Self {
        Self { names }
    }
}
