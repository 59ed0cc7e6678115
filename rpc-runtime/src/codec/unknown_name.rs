//! The error of parsing one of a few names.

/// The text is not the name of a value, such as a [`Codec`](crate::Codec) or a
/// [`ReplyQueue`](crate::ReplyQueue). The message lists the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown name: use {names}")]
pub struct UnknownName {
    names: &'static str,
}

impl UnknownName {
    /// Creates the error for a type whose values have these names.
    pub(crate) const fn new(names: &'static str) -> Self {
        Self { names }
    }
}
