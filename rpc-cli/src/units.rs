//! Reads and shows times and amounts.

use std::time::Duration;

/// The longest time of an option, other than an age.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// The longest text of a time, in bytes. No sensible time is longer, and humantime 2.4 panics on
/// some longer texts.
const MAX_TEXT: usize = 24;

/// Parses the time of an option: `500ms`, `1.5s`, `1m 30s`. It must be above zero and at most 24h.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let time = parse(text)?;
    if time.is_zero() || time > MAX_TIME {
        return Err("a time is above zero and at most 24h".to_owned());
    }
    Ok(time)
}

/// Parses how old something is: `90s`, `1h`, `7d`. It may also be zero or above 24h.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    parse(text)
}

fn parse(text: &str) -> Result<Duration, String> {
    if text.len() > MAX_TEXT {
        return Err("write a time such as 500ms, 1.5s or 2m".to_owned());
    }
    match humantime::parse_duration(text) {
        Ok(time) => Ok(time),
        Err(humantime::DurationError::UnknownUnit { unit, value, .. }) if unit.is_empty() => {
            Err(format!("a time needs a unit: {value}s or {value}ms"))
        }
        Err(error) => Err(format!("{error}; write a time such as 500ms, 1.5s or 2m")),
    }
}

/// Shows a time with three digits if possible, for columns: `7ns`, `612µs`, `1.53ms`, `12.0s`.
pub(crate) fn show_time(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    // From these limits on, rounding would give a fourth digit.
    let (value, unit) = match nanos {
        n if n < 999.5 => (n, "ns"),
        n if n < 999_500.0 => (n / 1e3, "µs"),
        n if n < 999_500_000.0 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let digits = match value {
        _ if unit == "ns" => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

/// Shows an age with at most two units: `62s`, `5m 3s`, `2h 10m`, `3d 4h`.
pub(crate) fn show_age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m {}s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Shows a size: `120 B`, `1.5 KiB`, `2.0 MiB`.
pub(crate) fn show_size(bytes: usize) -> String {
    match bytes as f64 {
        _ if bytes < 1024 => format!("{bytes} B"),
        size if bytes < 1024 * 1024 => format!("{:.1} KiB", size / 1024.0),
        size => format!("{:.1} MiB", size / (1024.0 * 1024.0)),
    }
}

/// Returns a time in nanoseconds, for JSON.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        count as f64 / time.as_secs_f64()
    }
}

/// Shows a count of things: `1 worker`, `2 workers`.
pub(crate) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_with_their_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1m 30s", 90_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_time("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_time("10").unwrap_err(), "a time needs a unit: 10s or 10ms");
        for text in [
            "",
            "s",
            "-1s",
            "1e3s",
            "0s",
            "25h",
            "1.2.3s",
            "99999999999999999999h",
            "18446744073709551615s 1000ms",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_may_be_long() {
        assert_eq!(parse_age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert!(parse_age("7").is_err() && parse_age("-1d").is_err());
    }

    #[test]
    fn sizes_have_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (3 << 20, "3.0 MiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn times_have_three_digits() {
        for (nanos, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_234, "1.23µs"),
            (12_345, "12.3µs"),
            (612_000, "612µs"),
            (999_600, "1.00ms"),
            (1_530_000, "1.53ms"),
            (12_000_000_000, "12.0s"),
            (123_400_000_000, "123s"),
        ] {
            assert_eq!(show_time(Duration::from_nanos(nanos)), text, "{nanos}");
        }
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [(62, "62s"), (303, "5m 3s"), (7800, "2h 10m"), (273_600, "3d 4h")] {
            assert_eq!(show_age(Duration::from_secs(seconds)), text);
        }
    }
}
