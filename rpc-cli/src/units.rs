//! Times and amounts as people write and read them.

use std::time::Duration;

const UNITS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// The longest time that may be asked for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Reads a time above zero: `500ms`, `1.5s`, `2m`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, seconds)| *seconds);
    match (number.parse::<f64>(), seconds) {
        (Ok(number), Some(seconds)) => match Duration::try_from_secs_f64(number * seconds) {
            Ok(time) if !time.is_zero() && time <= LONGEST => Ok(time),
            _ => Err("it is none of up to 24h, above zero".to_owned()),
        },
        (Ok(_), None) if unit.is_empty() => Err(format!("a time has a unit: {text}s, or {text}ms")),
        _ => Err("write a time such as 500ms, 1.5s or 2m".to_owned()),
    }
}

/// A time with three digits, for columns: `612µs`, `1.53ms`, `12.0s`.
pub(crate) fn show(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
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

/// How long something has been running: `62s`, `5m 3s`, `2h 10m`, `3d 4h`.
pub(crate) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m {}s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Calls a second.
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    match time.is_zero() {
        true => 0.0,
        false => count as f64 / time.as_secs_f64(),
    }
}

/// `1 worker`, `2 workers`.
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
    fn times_are_read_with_their_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(time("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(time("10").unwrap_err(), "a time has a unit: 10s, or 10ms");
        for text in [
            "",
            "s",
            "-1s",
            "1e3s",
            "0s",
            "25h",
            "1 s",
            "1.2.3s",
            "99999999999999999999h",
        ] {
            assert!(time(text).is_err(), "{text}");
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
            assert_eq!(show(Duration::from_nanos(nanos)), text, "{nanos}");
        }
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [(62, "62s"), (303, "5m 3s"), (7800, "2h 10m"), (273_600, "3d 4h")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
