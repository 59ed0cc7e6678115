//! The outcome of a request, as a store keeps it.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::protocol::{Reply, ReplyKind, StoredFormatError, read_stored, write_stored};
use crate::service::invocation::Answer;

/// The outcome of a request: the result of its method, or the method's own error.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredOutcome {
    /// As in `Directory.get_email`.
    method: String,
    codec: Codec,
    is_error: bool,
    body: Bytes,
}

/// The format of [`StoredOutcome::to_bytes`].
#[derive(Serialize, Deserialize)]
struct Stored {
    method: String,
    content_type: String,
    is_error: bool,
    body: Bytes,
}

impl StoredOutcome {
    pub(super) fn new(method: String, Answer { reply, .. }: &Answer) -> Self {
        Self {
            method,
            codec: reply.codec,
            is_error: reply.kind == ReplyKind::Error,
            // Copied: a small body shares memory with others, and would keep all of it.
            body: Bytes::copy_from_slice(&reply.body),
        }
    }

    /// Returns the answer to a request for this method in this codec. `None` if the outcome has
    /// another method or codec: then it is that of another request.
    pub(super) fn answer(self, method: &str, codec: Codec) -> Option<Answer> {
        if self.method != method || self.codec != codec {
            return None;
        }
        let kind = if self.is_error {
            ReplyKind::Error
        } else {
            ReplyKind::Result
        };
        Some(Answer::new(Reply::new(kind, codec, self.body)))
    }

    /// Encodes the outcome. Later versions of this library read it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        write_stored(&Stored {
            method: self.method.clone(),
            content_type: self.codec.content_type().to_owned(),
            is_error: self.is_error,
            body: self.body.clone(),
        })
    }

    /// Decodes an outcome.
    ///
    /// # Errors
    ///
    /// If the bytes are damaged, or have a version of the format that this library does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoredFormatError> {
        let stored: Stored = read_stored(bytes)?;
        Ok(Self {
            method: stored.method,
            codec: stored.content_type.parse().map_err(StoredFormatError::damaged)?,
            is_error: stored.is_error,
            body: stored.body,
        })
    }

    /// Whether it is the method's own error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// Returns the names of the service and the method, as in `Directory.get_email`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }
}

/// Does not show the content, which may be secret.
impl fmt::Debug for StoredOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredOutcome")
            .field("method", &self.method)
            .field("is_error", &self.is_error)
            .field("bytes", &self.body.len())
            .finish()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn outcome(body: &'static str) -> StoredOutcome {
        StoredOutcome {
            method: "Bank.pay".to_owned(),
            codec: Codec::Json,
            is_error: true,
            body: body.into(),
        }
    }

    #[test]
    fn an_outcome_is_read_back() {
        let stored = StoredOutcome::from_bytes(&outcome("7").to_bytes()).unwrap();
        assert_eq!(stored, outcome("7"));
        let Answer { reply, .. } = stored.answer("Bank.pay", Codec::Json).unwrap();
        assert_eq!((reply.kind, &reply.body[..]), (ReplyKind::Error, &b"7"[..]));
    }

    #[test]
    fn an_outcome_answers_only_its_own_request() {
        assert!(outcome("7").answer("Bank.refund", Codec::Json).is_none());
        assert!(outcome("7").answer("Bank.pay", Codec::MessagePack).is_none());
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = outcome("7").to_bytes();
        assert!(StoredOutcome::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(StoredOutcome::from_bytes(b"\x01\x80").is_err());
    }
}
