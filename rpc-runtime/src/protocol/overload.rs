//! Headers and messages about overload.

use std::time::Duration;

use super::ShortStr;
use super::headers::Headers;

/// The `type` of a probe, by which a worker measures how long requests wait in a queue. If another
/// worker receives it, that one replies at once, with an empty body.
pub(crate) const PROBE_TYPE: &str = "rpc.probe";

/// The header of a reply, or of the first message of a stream, with about how long the request
/// waited in its queue, in milliseconds. It is absent if that time is unknown or zero.
const QUEUE_TIME_HEADER: &str = "rpc-queue-time";

/// The header of a fault with the time to wait before the next attempt, in milliseconds.
pub(crate) const RETRY_AFTER_HEADER: &str = "rpc-retry-after";

/// About how long a request waited in its queue, in whole milliseconds. Zero if that is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct QueueTime(u32);

impl QueueTime {
    pub(crate) fn from_millis(millis: u64) -> Self {
        Self(u32::try_from(millis).unwrap_or(u32::MAX))
    }

    pub(crate) fn as_millis(self) -> u32 {
        self.0
    }

    pub(crate) fn as_duration(self) -> Duration {
        Duration::from_millis(self.0.into())
    }

    /// Reads the header of a message. Zero if it is missing, or not a number of up to 32 bits.
    pub(crate) fn read(headers: &Headers) -> Self {
        Self(read_number(headers, QUEUE_TIME_HEADER).unwrap_or(0))
    }

    /// Inserts the header of a message, unless it would be zero.
    pub(crate) fn write(self, headers: &mut Headers) {
        if self != Self::default() {
            headers.insert(ShortStr::from_static(QUEUE_TIME_HEADER), self.0.to_string());
        }
    }
}

impl From<Duration> for QueueTime {
    fn from(time: Duration) -> Self {
        Self(millis_rounded_up(time))
    }
}

/// Inserts a header with a time in milliseconds, rounded up. Does nothing if the time is zero.
pub(crate) fn write_millis(headers: &mut Headers, name: &'static str, time: Duration) {
    if !time.is_zero() {
        headers.insert(ShortStr::from_static(name), millis_rounded_up(time).to_string());
    }
}

/// Converts a time to whole milliseconds, rounded up, but at most `u32::MAX`.
fn millis_rounded_up(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// Reads a header with a time in whole milliseconds. Returns `None` if the header is missing, or
/// its value is not a whole number of up to 32 bits.
pub(crate) fn read_millis(headers: &Headers, name: &str) -> Option<Duration> {
    Some(Duration::from_millis(read_number(headers, name)?.into()))
}

fn read_number(headers: &Headers, name: &str) -> Option<u32> {
    headers.get(name)?.parse().ok()
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
            write_millis(&mut headers, RETRY_AFTER_HEADER, time);
            let expected = Duration::from_millis(read);
            assert_eq!(read_millis(&headers, RETRY_AFTER_HEADER), Some(expected));
            QueueTime::from(time).write(&mut headers);
            assert_eq!(QueueTime::read(&headers).as_duration(), expected);
        }
    }

    #[test]
    fn invalid_times_are_ignored() {
        let mut headers = Headers::default();
        QueueTime::from(Duration::ZERO).write(&mut headers);
        write_millis(&mut headers, RETRY_AFTER_HEADER, Duration::ZERO);
        assert!(headers.is_empty());
        assert_eq!(QueueTime::read(&headers), QueueTime::default());
        for text in ["", "-1", "1.5", "99999999999", "soon"] {
            headers.insert(ShortStr::from_static(RETRY_AFTER_HEADER), text.to_owned());
            assert_eq!(read_millis(&headers, RETRY_AFTER_HEADER), None, "{text:?}");
        }
    }
}
