//! Headers and messages about overload.

use std::time::Duration;

use super::ShortStr;
use super::headers::Headers;

/// The `type` of a probe, by which a worker measures how long requests wait in a queue. The worker
/// that receives a probe replies at once, with an empty body.
pub(crate) const PROBE_TYPE: &str = "rpc.probe";

/// The header of a reply with the time that requests waited in the queue when this one arrived, in
/// milliseconds. It is absent if that time is unknown or zero.
pub(crate) const QUEUE_TIME_HEADER: &str = "rpc-queue-time";

/// The header of a fault with the time to wait before the next attempt, in milliseconds.
pub(crate) const RETRY_AFTER_HEADER: &str = "rpc-retry-after";

/// Inserts a header with a time in whole milliseconds, rounded up, but at most the largest number
/// that [`read_millis`] reads. Does nothing if the time is zero.
pub(crate) fn write_millis(headers: &mut Headers, name: &'static str, time: Duration) {
    if !time.is_zero() {
        let millis = time.as_nanos().div_ceil(1_000_000).min(u32::MAX.into());
        headers.insert(ShortStr::from_static(name), millis.to_string());
    }
}

/// Reads a header with a time in whole milliseconds. Returns `None` if the header is missing, or
/// its value is not a whole number of up to 32 bits.
pub(crate) fn read_millis(headers: &Headers, name: &str) -> Option<Duration> {
    let millis = headers.get(name)?.parse::<u32>().ok()?;
    Some(Duration::from_millis(millis.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wire() {
        let mut headers = Headers::default();
        let nanos = Duration::from_nanos;
        for (time, read) in [
            (nanos(1), 1),
            (nanos(1_000_000), 1),
            (nanos(1_000_001), 2),
            (nanos(2_500_000_000), 2500),
            (Duration::MAX, u32::MAX.into()),
        ] {
            write_millis(&mut headers, QUEUE_TIME_HEADER, time);
            let expected = Some(Duration::from_millis(read));
            assert_eq!(read_millis(&headers, QUEUE_TIME_HEADER), expected);
        }
    }

    #[test]
    fn invalid_times_are_ignored() {
        let mut headers = Headers::default();
        write_millis(&mut headers, QUEUE_TIME_HEADER, Duration::ZERO);
        assert_eq!(headers.get(QUEUE_TIME_HEADER), None);
        for text in ["", "-1", "1.5", "99999999999", "soon"] {
            headers.insert(ShortStr::from_static(RETRY_AFTER_HEADER), text.to_owned());
            assert_eq!(read_millis(&headers, RETRY_AFTER_HEADER), None, "{text:?}");
        }
    }
}
