//! Headers: text that travels beside a call's arguments or its result.

use std::{fmt, slice};

use smallvec::SmallVec;

use super::short_str::ShortStr;

/// The headers of a request or a reply, by name.
///
/// A caller sets those of a request with [`Call::header`](crate::Call::header). A handler reads
/// them from its [`Context`](crate::Context). Values are text. A peer in another language may send
/// other AMQP types: integers, floats, booleans and timestamps are converted to text. Headers of
/// all other types (such as tables, arrays, and bytes that are not UTF-8) are dropped.
///
/// Some names are reserved. Names that begin with `rpc-` belong to this library. `CC`, `BCC`,
/// `x-delivery-count`, `x-acquired-count`, `x-death`, `x-first-death-..` and `x-last-death-..`
/// belong to RabbitMQ. A call cannot send them and a handler does not see them, so a handler can
/// forward all headers that it sees.
///
/// `Debug` shows only the names, as values may be secrets.
///
/// ```
/// # use rpc_runtime::Context;
/// let cx = Context::for_test("record").with_header("tenant", "acme");
/// assert_eq!(cx.headers().get("tenant"), Some("acme"));
/// for (name, value) in cx.headers() {
///     println!("{name}: {value}");
/// }
/// ```
// Most requests have no headers, so this is one pointer. An empty list is never kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Box<Sorted>>);

/// Headers in the order of their names, each name once. There are few, often only a trace context.
type Sorted = SmallVec<[(ShortStr, String); 2]>;

impl Headers {
    /// Returns the value of a header, or `None` if it was not sent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let index = self.position(name).ok()?;
        Some(&self.sorted()[index].1)
    }

    /// Iterates over all headers as pairs of name and value, ordered by name.
    pub fn iter(&self) -> HeadersIter<'_> {
        HeadersIter(self.sorted().iter())
    }

    /// Returns the number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted().len()
    }

    /// Whether there are no headers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the size of all headers in the properties of a message, in bytes.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| header_wire_bytes(name, value))
            .sum()
    }

    /// Returns what [`wire_bytes`](Self::wire_bytes) would be after this header is inserted.
    pub(crate) fn wire_bytes_with(&self, name: &str, value: &str) -> usize {
        let replaced_bytes = self.get(name).map_or(0, |old| header_wire_bytes(name, old));
        self.wire_bytes() - replaced_bytes + header_wire_bytes(name, value)
    }

    /// Keeps only the headers whose names and values are wanted.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&str, &str) -> bool) {
        if let Some(headers) = &mut self.0 {
            headers.retain(|(name, value)| is_wanted(name.as_str(), value));
        }
        self.0.take_if(|headers| headers.is_empty());
    }

    pub(crate) fn remove(&mut self, name: &'static str) -> Option<String> {
        let index = self.position(name).ok()?;
        let (_, removed) = self.0.as_mut()?.remove(index);
        self.0.take_if(|headers| headers.is_empty());
        Some(removed)
    }

    /// Sets a header, without checking its name. Collect many into `Headers` instead: each
    /// insertion shifts the headers after it.
    pub(crate) fn insert(&mut self, name: ShortStr, value: String) {
        let position = self.position(name.as_str());
        let headers = self.0.get_or_insert_default();
        match position {
            Ok(index) => headers[index].1 = value,
            Err(index) => headers.insert(index, (name, value)),
        }
    }

    /// Returns the index of a header, or the one at which it would be.
    fn position(&self, name: &str) -> Result<usize, usize> {
        let headers = self.sorted();
        headers.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    fn sorted(&self) -> &[(ShortStr, String)] {
        self.0.as_deref().map_or(&[], SmallVec::as_slice)
    }
}

/// Collects headers in any order. Of several with the same name, the last one counts.
impl FromIterator<(ShortStr, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (ShortStr, String)>>(headers: I) -> Self {
        let mut sorted: Sorted = headers.into_iter().collect();
        if sorted.is_empty() {
            return Self::default();
        }
        if !sorted.is_sorted_by(|(a, _), (b, _)| a < b) {
            // Of equal names, `dedup_by` keeps the first one: here the last one that came.
            sorted.reverse();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            sorted.dedup_by(|(a, _), (b, _)| a == b);
            sorted.shrink_to_fit();
        }
        Self(Some(Box::new(sorted)))
    }
}

/// Returns the size of a header in the properties of a message, in bytes.
fn header_wire_bytes(name: &str, value: &str) -> usize {
    /// The length of the name, the type of the value and the length of the value.
    const OVERHEAD: usize = 1 + 1 + 4;
    name.len() + value.len() + OVERHEAD
}

/// Iterates over the pairs of name and value, ordered by name. See [`Headers::iter`].
#[derive(Debug, Clone)]
pub struct HeadersIter<'a>(slice::Iter<'a, (ShortStr, String)>);

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        Some((name.as_str(), value.as_str()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for HeadersIter<'_> {}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a str, &'a str);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

impl IntoIterator for Headers {
    type Item = (String, String);
    type IntoIter = HeadersIntoIter;

    fn into_iter(self) -> HeadersIntoIter {
        HeadersIntoIter(self.0.map(|headers| *headers).unwrap_or_default().into_iter())
    }
}

/// Iterates over the owned pairs of name and value, ordered by name.
pub struct HeadersIntoIter(smallvec::IntoIter<[(ShortStr, String); 2]>);

impl Iterator for HeadersIntoIter {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        Some((name.as_str().to_owned(), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for HeadersIntoIter {}

/// Shows how many headers are left: values may be secrets.
impl fmt::Debug for HeadersIntoIter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} headers", self.0.len())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
    fn the_size_on_the_wire_counts_more_than_the_text() {
        let mut headers = Headers::default();
        assert_eq!(headers.wire_bytes_with("a", "12"), 9);
        headers.insert(ShortStr::from_static("a"), "12".into());
        assert_eq!(headers.wire_bytes(), 9);
        assert_eq!(headers.wire_bytes_with("a", "123"), 10);
        assert_eq!(headers.wire_bytes_with("b", ""), 16);
    }

    #[test]
    fn iterates_in_the_order_of_names() {
        let mut headers = Headers::default();
        headers.insert(ShortStr::from_static("tenant"), "acme".into());
        headers.insert(ShortStr::from_static("region"), "eu".into());
        let mut seen = Vec::new();
        for (name, value) in &headers {
            seen.push((name.to_owned(), value.to_owned()));
        }
        assert_eq!(headers.iter().len(), 2);
        assert!(headers.into_iter().eq(seen.clone()));
        assert_eq!(seen[0], ("region".to_owned(), "eu".to_owned()));
        assert_eq!(Headers::default().into_iter().count(), 0);
    }

    #[test]
    fn collects_headers_in_any_order_and_keeps_the_last_of_a_name() {
        let pairs = [
            ("b", "1"),
            ("a", "2"),
            ("c", "3"),
            ("b", "4"),
            ("a", "5"),
            ("b", "6"),
        ];
        let pair = |(name, value): (&'static str, &str)| (ShortStr::from_static(name), value.to_owned());
        for count in 0..=pairs.len() {
            let collected: Headers = pairs[..count].iter().copied().map(pair).collect();
            let mut inserted = Headers::default();
            for (name, value) in pairs[..count].iter().copied().map(pair) {
                inserted.insert(name, value);
            }
            assert_eq!(collected, inserted);
            let in_order: BTreeMap<_, _> = pairs[..count].iter().copied().collect();
            assert!(collected.iter().eq(in_order));
        }
    }

    #[test]
    fn removing_the_last_header_leaves_no_headers() {
        let mut headers = Headers::default();
        headers.insert(ShortStr::from_static("a"), "1".into());
        assert_eq!((headers.remove("b"), headers.len()), (None, 1));
        assert_eq!(headers.remove("a").as_deref(), Some("1"));
        assert!(headers.is_empty() && headers == Headers::default());
        assert_eq!(headers.iter().count(), 0);
    }
}
