//! An item of a stream, as layers see it.

/// Which side of a call sends an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SentBy {
    /// The caller: the method receives the items as an [`Incoming`](crate::Incoming).
    Caller,
    /// The method, which replies with a stream.
    Method,
}

impl SentBy {
    #[cfg_attr(not(feature = "metrics"), allow(dead_code))]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Method => "method",
        }
    }
}

/// An item of a stream, as layers see it. See
/// [`OutgoingCall::observe_items`](crate::middleware::OutgoingCall::observe_items).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamItem {
    pub(super) sent_by: SentBy,
    pub(super) number: u64,
    pub(super) bytes: usize,
}

impl StreamItem {
    /// Returns which side of the call sends the item.
    #[must_use]
    pub fn sent_by(&self) -> SentBy {
        self.sent_by
    }

    /// Returns the number of the item in its stream, from 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the size of the encoded item, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
