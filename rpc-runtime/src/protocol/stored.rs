//! The format of what users keep in their own database: a version, then MessagePack.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, DecodeError};

/// The version of the format. A reader ignores fields that it does not know, so only a change that
/// it must not ignore needs another version.
const VERSION: u8 = 1;

/// Stored bytes cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredFormatError {
    /// A newer version of this library wrote them, or they are something else: their first byte is
    /// not a known version.
    #[error(
        "the stored bytes have version {version} of the format, and this program reads version {VERSION}"
    )]
    #[non_exhaustive]
    UnknownVersion {
        /// The version of the format.
        version: u8,
    },
    /// They are empty, or what follows the version cannot be decoded or is invalid, for example
    /// because it is cut off.
    #[error("the stored bytes are damaged")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoredFormatError {
    pub(crate) fn damaged(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Damaged(source.into())
    }
}

impl From<DecodeError> for StoredFormatError {
    fn from(source: DecodeError) -> Self {
        Self::damaged(source)
    }
}

/// Encodes a struct of texts, numbers, bytes, and lists of these.
pub(crate) fn write_stored(value: &impl Serialize) -> Vec<u8> {
    let body = Codec::MessagePack.encode(value);
    let body = body.expect("texts, numbers and bytes can always be encoded");
    [&[VERSION], &body[..]].concat()
}

/// Decodes what [`write_stored`] encoded.
pub(crate) fn read_stored<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoredFormatError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(Codec::MessagePack.decode(body)?),
        Some((&version, _)) => Err(StoredFormatError::UnknownVersion { version }),
        None => Err(StoredFormatError::damaged("they are empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_say_their_version() {
        let bytes = write_stored(&[1, 2]);
        assert_eq!(read_stored::<[u8; 2]>(&bytes).unwrap(), [1, 2]);
        let newer = [&[2], &bytes[1..]].concat();
        assert_eq!(
            read_stored::<[u8; 2]>(&newer).unwrap_err().to_string(),
            "the stored bytes have version 2 of the format, and this program reads version 1"
        );
        for damaged in [&bytes[..2], &[]] {
            let error = read_stored::<[u8; 2]>(damaged).unwrap_err();
            assert!(matches!(error, StoredFormatError::Damaged(_)), "{error:?}");
        }
    }
}
