//! The trace context of a call that the console makes, as W3C's Trace Context writes it.
//!
//! The console records no span itself. The context names a span for the call, so that the spans of
//! workers have a parent in the same trace, but that span is in no backend.

use uuid::Uuid;

/// The header with which the context travels.
pub(super) const HEADER: &str = "traceparent";

/// A new trace, which begins with the call.
pub(super) struct Trace {
    /// 32 hexadecimal digits.
    pub(super) id: String,
    /// The value of the header.
    pub(super) traceparent: String,
}

impl Trace {
    pub(super) fn new() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let span = Uuid::new_v4().simple().to_string();
        // The last bit asks the workers to record the trace.
        let traceparent = format!("00-{id}-{}-01", &span[..16]);
        Self { id, traceparent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_a_valid_header() {
        let trace = Trace::new();
        let parts: Vec<_> = trace.traceparent.split('-').collect();
        let [version, id, span, flags] = parts[..] else {
            panic!("{}", trace.traceparent)
        };
        assert_eq!((version, id, flags), ("00", trace.id.as_str(), "01"));
        for (digits, length) in [(id, 32), (span, 16)] {
            assert!(
                digits
                    .bytes()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            );
            assert!(digits.len() == length && digits.bytes().any(|digit| digit != b'0'));
        }
        assert_ne!(Trace::new().id, trace.id);
    }
}
