//! What is counted: calls, their attempts, or requests.

use super::span::Side;

/// What metrics count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Calls,
    Attempts,
    Requests,
}

impl Counted {
    pub(super) fn side(self) -> Side {
        match self {
            Self::Calls | Self::Attempts => Side::Caller,
            Self::Requests => Side::Worker,
        }
    }
}
