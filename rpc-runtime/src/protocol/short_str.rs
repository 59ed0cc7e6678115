//! Short strings: AMQP's names and identifiers, at most 255 bytes long.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The longest short string, in bytes (AMQP 0-9-1, section 4.2.5.3).
pub(crate) const MAX_SHORT_STR: usize = 255;

/// A string that fits AMQP's short string: checked once here, so that nothing further down can fail or panic on its length.
#[derive(Clone)]
pub(crate) struct ShortStr(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

impl ShortStr {
    /// A name known when the program is compiled; one that is too long does not compile in a `const`.
    pub(crate) const fn from_static(text: &'static str) -> Self {
        assert!(
            text.len() <= MAX_SHORT_STR,
            "an AMQP short string holds at most 255 bytes"
        );
        Self(Repr::Static(text))
    }

    /// Checks a string from outside.
    pub(crate) fn new(text: impl AsRef<str>) -> Result<Self, TooLong> {
        let text = text.as_ref();
        match text.len() {
            0..=MAX_SHORT_STR => Ok(Self(Repr::Shared(text.into()))),
            length => Err(TooLong { length }),
        }
    }

    pub(crate) fn from_uuid(id: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self(Repr::Shared(Arc::from(
            &*id.hyphenated().encode_lower(&mut buffer),
        )))
    }

    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(text) => text,
            Repr::Shared(text) => text,
        }
    }
}

impl PartialEq for ShortStr {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ShortStr {}

impl std::hash::Hash for ShortStr {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
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
        self.as_str().cmp(other.as_str())
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

/// A name does not fit AMQP's short string of 255 bytes.
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
}
