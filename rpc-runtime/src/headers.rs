//! Headers: what travels beside a call's arguments.

use std::collections::BTreeMap;
use std::fmt;

use crate::protocol::ShortStr;

/// The headers of a request, by name.
///
/// A caller sets them with [`Call::header`](crate::Call::header); a handler reads them from its
/// [`Context`](crate::Context). Values are text. A peer in another language may send other AMQP types: numbers and
/// booleans arrive as their text, anything else (tables, arrays, bytes that are not UTF-8) is left out.
///
/// `Debug` shows the names only: values may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<ShortStr, String>);

impl Headers {
    /// The value of a header, or `None` where it was not sent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All headers, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no header at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names' and values' length, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    pub(crate) fn remove(&mut self, name: &'static str) -> Option<String> {
        self.0.remove(name)
    }

    pub(crate) fn insert(&mut self, name: ShortStr, value: String) {
        self.0.insert(name, value);
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_keeps_values_secret() {
        let mut headers = Headers::default();
        headers.insert(ShortStr::from_static("authorization"), "s3cret".into());
        assert_eq!(format!("{headers:?}"), r#"{"authorization"}"#);
        assert_eq!(headers.get("authorization"), Some("s3cret"));
        assert_eq!(headers.get(&"x".repeat(300)), None);
    }
}
