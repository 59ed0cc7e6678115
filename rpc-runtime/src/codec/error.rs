//! The errors of codecs.

use super::content_type::Codec;

/// Why a format cannot encode or decode a value.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A value cannot be encoded in this content type.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the value as {codec}")]
pub struct EncodeError {
    codec: Codec,
    source: BoxError,
}

/// A message's body cannot be decoded as the expected value.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the body as {codec}")]
pub struct DecodeError {
    codec: Codec,
    source: BoxError,
}

impl EncodeError {
    pub(crate) fn new(codec: Codec, source: BoxError) -> Self {
        Self { codec, source }
    }

    /// The codec that the value was to be written with.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }
}

impl DecodeError {
    pub(crate) fn new(codec: Codec, source: BoxError) -> Self {
        Self { codec, source }
    }

    /// The codec that failed.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }
}

/// The body has bytes after the value.
#[derive(Debug, thiserror::Error)]
#[error("the body continues after the value")]
pub(super) struct TrailingBytes;
