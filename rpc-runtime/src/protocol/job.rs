//! The headers of a job: how often it failed and why, and how long it still waits.
//!
//! Workers write them, and callers write the delay. A dead letter keeps the history, so that an
//! operator sees what happened.

use std::time::Duration;

use super::headers::Headers;
use super::request::REDELIVERIES_HEADER;
use super::short_str::ShortStr;

/// How many attempts have failed.
pub(crate) const ATTEMPTS_HEADER: &str = "rpc-attempts";
/// When the first attempt failed, in milliseconds since the Unix epoch.
pub(crate) const FIRST_FAILURE_HEADER: &str = "rpc-first-failure";
/// When the last attempt failed, in milliseconds since the Unix epoch.
pub(crate) const LAST_FAILURE_HEADER: &str = "rpc-last-failure";
/// How long the job must still wait once it reaches a worker, in milliseconds.
pub(crate) const DELAY_HEADER: &str = "rpc-delay";
/// Why the last attempt failed: `error`, or the code of a fault.
pub(crate) const REASON_HEADER: &str = "rpc-reason";
/// The error of the last attempt, as text.
pub(crate) const ERROR_HEADER: &str = "rpc-error";
/// The `traceparent` of the first attempt that was sampled, which later attempts are linked to.
pub(crate) const FIRST_TRACE_HEADER: &str = "rpc-first-trace";
/// W3C's header for the trace context.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// The queue that the job was sent to. Written when the job is given up.
pub(crate) const ORIGIN_HEADER: &str = "rpc-origin";
/// Marks a job that was given up and waits in a retry queue until the dead-letter queue takes it.
pub(crate) const GIVEN_UP_HEADER: &str = "rpc-given-up";
/// The user that sent the job. A worker writes it when it moves the job, because the copy has no
/// `user_id`. The broker does not validate this header.
pub(crate) const USER_HEADER: &str = "rpc-user";

/// The longest text that [`ERROR_HEADER`] holds, in bytes.
const MAX_ERROR: usize = 1024;

/// The longest value of any other header that workers write, in bytes: the name of a queue.
const MAX_VALUE: usize = 255;

/// The largest headers that are kept in a copy, in bytes on the wire. They fit into the smallest
/// frames that RabbitMQ 4.1 allows (8 KiB), with all other properties. Callers of this library send
/// little more than 4 KiB.
const MAX_HEADERS: usize = 6 * 1024;

/// The longest delay of a job. A longer one is cut to it.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The headers of jobs, which [`limit_headers`] keeps unless they are too long to be a worker's
/// own.
const JOB_HEADERS: [&str; 10] = [
    ATTEMPTS_HEADER,
    FIRST_FAILURE_HEADER,
    LAST_FAILURE_HEADER,
    DELAY_HEADER,
    REASON_HEADER,
    ERROR_HEADER,
    FIRST_TRACE_HEADER,
    ORIGIN_HEADER,
    GIVEN_UP_HEADER,
    USER_HEADER,
];

/// Returns how many attempts of a job have failed. Zero if the header is missing or not a number of
/// up to 32 bits.
pub(crate) fn failed_attempts(headers: &Headers) -> u32 {
    read_number(headers, ATTEMPTS_HEADER)
        .and_then(|attempts| u32::try_from(attempts).ok())
        .unwrap_or(0)
}

/// Returns how long a job must still wait, at most [`MAX_DELAY`]. Zero if the header is missing or
/// not a number of up to 64 bits.
pub(crate) fn remaining_delay(headers: &Headers) -> Duration {
    let delay = Duration::from_millis(read_number(headers, DELAY_HEADER).unwrap_or(0));
    delay.min(MAX_DELAY)
}

/// Sets how long a job must wait after the next delivery, rounded up to a millisecond. Removes the
/// header if that is zero.
pub(crate) fn set_remaining_delay(headers: &mut Headers, delay: Duration) {
    if delay.is_zero() {
        headers.remove(DELAY_HEADER);
    } else {
        let millis = delay.as_nanos().div_ceil(1_000_000);
        set(headers, DELAY_HEADER, millis.to_string());
    }
}

/// Records that an attempt failed. `reason` is the value of [`REASON_HEADER`], and `now` is in
/// milliseconds since the Unix epoch.
pub(crate) fn record_failure(headers: &mut Headers, reason: &str, error: &str, now: u64) {
    let attempts = failed_attempts(headers).saturating_add(1);
    set(headers, ATTEMPTS_HEADER, attempts.to_string());
    // The delay was that of the failed attempt. The next attempt has one of its own.
    headers.remove(DELAY_HEADER);
    // The maximum number of redeliveries holds for each attempt, so the count starts again.
    headers.remove(REDELIVERIES_HEADER);
    if read_number(headers, FIRST_FAILURE_HEADER).is_none() {
        set(headers, FIRST_FAILURE_HEADER, now.to_string());
    }
    set(headers, LAST_FAILURE_HEADER, now.to_string());
    set(headers, REASON_HEADER, reason.to_owned());
    set(headers, ERROR_HEADER, shortened(error).to_owned());
}

/// Returns how long ago the last attempt failed. Zero if that is not known or, by this clock, in
/// the future. `now` is in milliseconds since the Unix epoch.
pub(crate) fn since_last_failure(headers: &Headers, now: u64) -> Duration {
    let failed = read_number(headers, LAST_FAILURE_HEADER).unwrap_or(now);
    Duration::from_millis(now.saturating_sub(failed))
}

/// Whether a job was given up and has waited in a retry queue for the dead-letter queue, so that it
/// must not run again.
pub(crate) fn is_given_up(headers: &Headers) -> bool {
    headers.get(GIVEN_UP_HEADER).is_some()
}

/// Marks a job with [`GIVEN_UP_HEADER`] if it is given up, and removes the mark otherwise.
pub(crate) fn mark_given_up(headers: &mut Headers, is_given_up: bool) {
    if is_given_up {
        set(headers, GIVEN_UP_HEADER, String::new());
    } else {
        headers.remove(GIVEN_UP_HEADER);
    }
}

/// Records the queue that a job came from, for the dead-letter queue.
pub(crate) fn record_origin_queue(headers: &mut Headers, queue: &str) {
    set(headers, ORIGIN_HEADER, queue.to_owned());
}

/// Records the user that sent a job. `None` removes the header, which the sender may have forged.
pub(crate) fn record_user(headers: &mut Headers, user: Option<&ShortStr>) {
    match user {
        Some(user) => set(headers, USER_HEADER, user.as_str().to_owned()),
        None => drop(headers.remove(USER_HEADER)),
    }
}

/// Removes the sender's own headers if all headers together might not fit into the frame of a copy.
/// If the rest is too large too, keeps only headers of jobs that are as short as a worker's.
pub(crate) fn limit_headers(headers: &mut Headers) {
    if headers.wire_bytes() > MAX_HEADERS {
        headers.retain(|name, _| name.starts_with("rpc-"));
    }
    // If they are still too large, the sender has forged headers of this library.
    if headers.wire_bytes() > MAX_HEADERS {
        headers.retain(|name, value| {
            let longest = if name == ERROR_HEADER {
                MAX_ERROR
            } else {
                MAX_VALUE
            };
            JOB_HEADERS.contains(&name) && value.len() <= longest
        });
    }
}

/// Records the trace context of an attempt, from the headers of its reply, unless that of an
/// earlier attempt is recorded.
pub(crate) fn record_trace(headers: &mut Headers, reply: &Headers) {
    if let Some(traceparent) = reply.get(TRACEPARENT)
        && headers.get(FIRST_TRACE_HEADER).is_none()
    {
        set(headers, FIRST_TRACE_HEADER, traceparent.to_owned());
    }
}

fn read_number(headers: &Headers, name: &str) -> Option<u64> {
    headers.get(name)?.parse().ok()
}

fn set(headers: &mut Headers, name: &'static str, value: String) {
    headers.insert(ShortStr::from_static(name), value);
}

/// The beginning of a text, at most [`MAX_ERROR`] bytes of it.
fn shortened(text: &str) -> &str {
    let end = (0..=MAX_ERROR.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_the_last_one_is_kept() {
        let mut headers = Headers::default();
        assert_eq!(
            (failed_attempts(&headers), remaining_delay(&headers)),
            (0, Duration::ZERO)
        );
        record_failure(&mut headers, "error", "no route", 1000);
        record_failure(&mut headers, "panicked", &"ä".repeat(600), 2000);
        assert_eq!(failed_attempts(&headers), 2);
        let times = (
            headers.get(FIRST_FAILURE_HEADER),
            headers.get(LAST_FAILURE_HEADER),
        );
        assert_eq!(times, (Some("1000"), Some("2000")));
        assert_eq!(headers.get(REASON_HEADER), Some("panicked"));
        assert_eq!(headers.get(ERROR_HEADER).map(str::len), Some(1024));
    }

    #[test]
    fn numbers_that_cannot_be_read_count_as_zero() {
        let mut headers = Headers::default();
        set(&mut headers, ATTEMPTS_HEADER, "many".into());
        set(&mut headers, DELAY_HEADER, "-1".into());
        assert_eq!(
            (failed_attempts(&headers), remaining_delay(&headers)),
            (0, Duration::ZERO)
        );
    }

    #[test]
    fn a_delay_is_never_shortened() {
        let mut headers = Headers::default();
        for (nanos, millis) in [(1, 1), (1_000_000, 1), (1_000_001, 2)] {
            set_remaining_delay(&mut headers, Duration::from_nanos(nanos));
            assert_eq!(remaining_delay(&headers), Duration::from_millis(millis));
        }
    }

    #[test]
    fn headers_that_might_not_fit_into_a_frame_are_removed() {
        let with = |name: &'static str, bytes: usize| {
            let mut headers = Headers::default();
            set(&mut headers, "tenant", "acme".into());
            record_failure(&mut headers, "error", &"x".repeat(2000), 1);
            set(&mut headers, name, "x".repeat(bytes));
            limit_headers(&mut headers);
            headers
        };
        assert_eq!(with("note", 4 * 1024).get("tenant"), Some("acme"));
        let mut many = Headers::default();
        for number in 0..1000 {
            many.insert(ShortStr::new(format!("{number}")).unwrap(), String::new());
        }
        limit_headers(&mut many);
        assert!(
            many.is_empty(),
            "they have less than 3 KiB of text, and more than 8 KiB on the wire"
        );
        for forged in ["note", "rpc-forged", ORIGIN_HEADER, ERROR_HEADER, DELAY_HEADER] {
            let headers = with(forged, 200_000);
            assert!(headers.wire_bytes() <= MAX_HEADERS, "{forged}");
            assert_eq!(headers.get(ATTEMPTS_HEADER), Some("1"), "{forged}");
        }
    }

    #[test]
    fn the_count_of_redeliveries_starts_again_with_each_attempt() {
        let mut headers = Headers::default();
        set(&mut headers, REDELIVERIES_HEADER, "19".into());
        record_failure(&mut headers, "error", "no route", 1);
        assert_eq!(headers.get(REDELIVERIES_HEADER), None);
    }
}
