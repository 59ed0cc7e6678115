//! AMQP's short strings: names and identifiers of at most 255 bytes.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The maximum length of a short string, in bytes (AMQP 0-9-1, section 4.2.5.3).
pub(crate) const MAX_SHORT_STR: usize = 255;

/// An AMQP short string. Its length is checked here, so that no later step can fail or panic on it.
#[derive(Clone)]
pub(crate) struct ShortStr(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    /// A length, and an array that begins with that many bytes of UTF-8.
    Inline(u8, [u8; INLINE]),
    Shared(Arc<str>),
}

/// The length of a UUID in text: most messages have one as their correlation id, and most names of
/// methods and headers are shorter.
const INLINE: usize = 36;

impl ShortStr {
    /// Creates a short string from a literal. In a `const`, a string that is too long does not
    /// compile.
    ///
    /// # Panics
    ///
    /// Panics if it is longer than 255 bytes.
    pub(crate) const fn from_static(text: &'static str) -> Self {
        assert!(
            text.len() <= MAX_SHORT_STR,
            "an AMQP short string holds at most 255 bytes"
        );
        Self(Repr::Static(text))
    }

    /// Creates a short string, or fails if it is longer than 255 bytes.
    pub(crate) fn new(text: impl AsRef<str>) -> Result<Self, TooLong> {
        let text = text.as_ref();
        match text.len() {
            length @ 0..=INLINE => {
                let mut bytes = [0; INLINE];
                bytes[..length].copy_from_slice(text.as_bytes());
                Ok(Self(Repr::Inline(u8::try_from(length).unwrap_or(0), bytes)))
            }
            0..=MAX_SHORT_STR => Ok(Self(Repr::Shared(text.into()))),
            length => Err(TooLong { length }),
        }
    }

    pub(crate) fn from_uuid(id: Uuid) -> Self {
        let mut bytes = [0; INLINE];
        id.hyphenated().encode_lower(&mut bytes);
        Self(Repr::Inline(INLINE as u8, bytes))
    }

    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(text) => text,
            // The constructors put only UTF-8 there.
            Repr::Inline(length, bytes) => str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default(),
            Repr::Shared(text) => text,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Static(text) => text.as_bytes(),
            Repr::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Repr::Shared(text) => text.as_bytes(),
        }
    }
}

/// Allows a lookup in a map of short strings by a `&str`.
impl Borrow<str> for ShortStr {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for ShortStr {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ShortStr {}

impl std::hash::Hash for ShortStr {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // `Borrow<str>` requires the hash of the `str`.
        self.as_str().hash(state);
    }
}

impl PartialOrd for ShortStr {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShortStr {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A string is longer than the 255 bytes of an AMQP short string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes are too long for an AMQP name: it holds at most 255")]
pub(crate) struct TooLong {
    pub(crate) length: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_up_to_255_bytes() {
        assert_eq!(ShortStr::new("a".repeat(255)).unwrap().as_str().len(), 255);
        assert_eq!(
            ShortStr::new("a".repeat(256)).unwrap_err(),
            TooLong { length: 256 }
        );
        // Bytes count, not characters.
        assert!(ShortStr::new("é".repeat(128)).is_err());
    }

    #[test]
    fn compares_by_text() {
        assert_eq!(ShortStr::from_static("x"), ShortStr::new("x").unwrap());
    }

    #[test]
    fn keeps_its_text_at_any_length() {
        for length in [0, 1, INLINE - 2, INLINE - 1, INLINE, INLINE + 1, 255] {
            let text = "é".repeat(length / 2) + &"x".repeat(length % 2);
            assert_eq!(ShortStr::new(&text).unwrap().as_str(), text);
        }
        let id = Uuid::from_u128(0x00112233_4455_4677_8899_aabbccddeeff);
        assert_eq!(
            ShortStr::from_uuid(id).as_str(),
            "00112233-4455-4677-8899-aabbccddeeff"
        );
    }
}
