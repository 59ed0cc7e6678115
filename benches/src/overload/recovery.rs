//! How long calls remain slow after an overload.

use std::ops::Range;
use std::time::Duration;

use super::record::{End, Ended, Quantiles, Record};

/// Calls are grouped by when they were due, in windows of this length.
const WINDOW: Duration = Duration::from_millis(200);

/// This many windows in a row must be as before. A single call that the machine delays later does
/// not count.
const IN_A_ROW: usize = 5;

/// A window is "as before" if its p99 is at most this many times the greatest p99 before the
/// overload, plus [`SLACK`].
const TOLERANCE: f64 = 1.5;

/// Timers count milliseconds, and a window has so few calls that its p99 is the slowest call.
const SLACK: Duration = Duration::from_millis(5);

/// Returns the time from the end of the overload until calls are answered, are as fast as during
/// `before`, and stay so for a second, in steps of [`WINDOW`]. `None` if that does not happen
/// within `after`, which begins at the end of the overload, or if no window of `before` has a p99.
pub(crate) fn recovery(record: &Record, before: Range<Duration>, after: Range<Duration>) -> Option<Duration> {
    let slowest = windows(record, before).into_iter().flatten().max()?;
    let limit = slowest.mul_f64(TOLERANCE) + SLACK;
    let is_as_before: Vec<_> = windows(record, after)
        .iter()
        .map(|p99| p99.is_some_and(|p99| p99 <= limit))
        .collect();
    let first = is_as_before
        .windows(IN_A_ROW)
        .position(|row| row.iter().all(|is_as_before| *is_as_before))?;
    Some(WINDOW * u32::try_from(first).ok()?)
}

/// Returns the [`p99`] of each whole window of the span, by when calls were due.
fn windows(record: &Record, span: Range<Duration>) -> Vec<Option<Duration>> {
    let count = (span.end - span.start).as_nanos() / WINDOW.as_nanos();
    let mut windows: Vec<Vec<&Ended>> = vec![Vec::new(); usize::try_from(count).unwrap_or_default()];
    for call in &record.calls {
        let offset = call.due.checked_sub(span.start);
        let window = offset.map(|offset| offset.as_nanos() / WINDOW.as_nanos());
        let window = window.and_then(|window| usize::try_from(window).ok());
        if let Some(window) = window.and_then(|window| windows.get_mut(window)) {
            window.push(call);
        }
    }
    windows.iter().map(|calls| p99(calls, record.deadline)).collect()
}

/// Returns the p99; `None` if it exceeds the deadline, if a call was not answered, or if there are
/// no calls.
fn p99(calls: &[&Ended], deadline: Duration) -> Option<Duration> {
    if calls.iter().any(|call| call.end != End::Answered) {
        return None;
    }
    let p99 = Quantiles::of(calls.iter().map(|call| call.latency()))?.p99;
    (p99 <= deadline).then_some(p99)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Returns a call each 10 ms for 6 s, with the latency and end that `of` gives for its due time
    /// in ms.
    fn record(of: impl Fn(u64) -> (u64, End)) -> Record {
        let calls = (0..600).map(|index| {
            let due = index * 10;
            let (latency, end) = of(due);
            Ended {
                due: millis(due),
                at: millis(due + latency),
                end,
                is_important: false,
                is_modest: false,
            }
        });
        Record {
            deadline: millis(1000),
            due: Vec::new(),
            calls: calls.collect(),
            runs: Vec::new(),
            greatest_lag: Duration::ZERO,
        }
    }

    fn recovery_of(of: impl Fn(u64) -> (u64, End)) -> Option<Duration> {
        recovery(&record(of), millis(0)..millis(2000), millis(3000)..millis(6000))
    }

    #[test]
    fn recovery_ends_with_the_last_window_that_is_slower() {
        let slow_until = |end| {
            recovery_of(move |due| match due {
                2000.. if due < end => (500, End::Answered),
                _ => (20, End::Answered),
            })
        };
        assert_eq!(slow_until(3000), Some(Duration::ZERO));
        assert_eq!(slow_until(3010), Some(millis(200)));
        assert_eq!(slow_until(4000), Some(millis(1000)));
        assert_eq!(slow_until(5900), None);
    }

    #[test]
    fn refused_calls_are_not_as_before() {
        let recovery = recovery_of(|due| match due {
            2000..3500 => (1, End::Refused("expired".to_owned())),
            _ => (20, End::Answered),
        });
        assert_eq!(recovery, Some(millis(600)));
    }

    #[test]
    fn a_single_slow_call_later_on_does_not_count() {
        let recovery = recovery_of(|due| match due {
            5000 => (90, End::Answered),
            _ => (20, End::Answered),
        });
        assert_eq!(recovery, Some(Duration::ZERO));
    }
}
