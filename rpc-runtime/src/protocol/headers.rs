//! Headers: what travels beside a call's arguments.

use std::collections::BTreeMap;
use std::fmt;

use super::short_str::ShortStr;

/// The headers of a request, by name.
///
/// A caller sets them with [`Call::header`](crate::Call::header); a handler reads them from its
/// [`Context`](crate::Context). Values are text. A peer in another language may send other AMQP types: numbers and
/// booleans arrive as their text, anything else (tables, arrays, bytes that are not UTF-8) is left out.
///
/// Names that begin with `rpc-` are the runtime's, and `CC`, `BCC`, `x-delivery-count`, `x-acquired-count` and those of dead
/// letters (`x-death`, `x-first-death-..`, `x-last-death-..`) are RabbitMQ's: a handler does not see them, and a call cannot
/// send them. So all that a handler sees can be sent on.
///
/// `Debug` shows the names only: values may be secrets.
// Most requests have none, and take no more than a pointer for it; nor is there an empty map.
#[allow(clippy::box_collection)]
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Box<BTreeMap<ShortStr, String>>>);

impl Headers {
    /// The value of a header, or `None` where it was not sent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// All headers, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter().flat_map(|headers| headers.iter());
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |headers| headers.len())
    }

    /// Whether there is no header at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The names' and values' length, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// What [`bytes`](Self::bytes) would be with this one, which replaces one of its name.
    pub(crate) fn bytes_with(&self, name: &str, value: &str) -> usize {
        let replaced = self.get(name).map_or(0, |value| name.len() + value.len());
        self.bytes() - replaced + name.len() + value.len()
    }

    /// Keeps only those whose names are wanted.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        if let Some(headers) = &mut self.0 {
            headers.retain(|name, _| is_wanted(name.as_str()));
        }
        self.0.take_if(|headers| headers.is_empty());
    }

    pub(crate) fn remove(&mut self, name: &'static str) -> Option<String> {
        let removed = self.0.as_mut()?.remove(name);
        self.0.take_if(|headers| headers.is_empty());
        removed
    }

    pub(crate) fn insert(&mut self, name: ShortStr, value: String) {
        self.0.get_or_insert_default().insert(name, value);
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
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

    #[test]
    fn headers_that_were_removed_are_as_if_never_there() {
        let mut headers = Headers::default();
        headers.insert(ShortStr::from_static("a"), "1".into());
        assert_eq!((headers.remove("b"), headers.len()), (None, 1));
        assert_eq!(headers.remove("a").as_deref(), Some("1"));
        assert!(headers.is_empty() && headers == Headers::default());
        assert_eq!(headers.iter().count(), 0);
    }
}
