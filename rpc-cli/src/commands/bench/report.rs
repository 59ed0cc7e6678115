//! Shows the measurements as text and as JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::tally::Tally;
use crate::text::join_lines;
use crate::units::{per_second, show_time};

/// The length of the longest bar, in characters.
const MAX_BAR_LENGTH: u64 = 40;

const MAX_BARS: usize = 12;

const QUANTILES: [(&str, f64); 5] = [
    ("50%", 0.5),
    ("90%", 0.9),
    ("99%", 0.99),
    ("99.9%", 0.999),
    ("99.99%", 0.9999),
];

#[derive(Debug)]
pub(super) struct Report {
    pub(super) service: String,
    pub(super) queue: String,
    pub(super) method: String,
    pub(super) concurrency: u32,
    pub(super) rate: Option<u32>,
    /// The time from the start of the run until its last call ended or it was interrupted.
    pub(super) time: Duration,
    /// Calls that were due and never started.
    pub(super) missed: u64,
    pub(super) is_interrupted: bool,
    /// Whether each call is answered with a stream.
    pub(super) is_streaming: bool,
    pub(super) tally: Tally,
}

impl Report {
    /// Returns the report for people.
    pub(super) fn text(&self) -> String {
        let Self {
            service,
            queue,
            method,
            ..
        } = self;
        let tally = &self.tally;
        let load = match self.rate {
            Some(rate) => format!("{rate} calls per second, at most {} in flight", self.concurrency),
            None => format!("{} calls in flight", self.concurrency),
        };
        let interrupted = if self.is_interrupted { ", interrupted" } else { "" };
        let outcomes = tally
            .outcomes
            .iter()
            .map(|(outcome, count)| format!("{outcome} {count}"));
        let mut lines = vec![
            format!("{service}.{method} on {queue}: {load}{interrupted}"),
            String::new(),
            format!(
                "calls     {} in {}: {:.1} per second",
                tally.calls(),
                show_time(self.time),
                per_second(tally.calls(), self.time)
            ),
            format!("outcomes  {}", outcomes.collect::<Vec<_>>().join(", ")),
        ];
        if self.is_streaming {
            let per_second = per_second(tally.items, self.time);
            lines.push(format!("items     {}: {per_second:.1} per second", tally.items));
        }
        if let Some(failure) = &tally.failure {
            lines.push(format!("          first failure: {failure}"));
        }
        if self.missed > 0 {
            lines.push(format!(
                "missed    {} calls were due and never started: raise --concurrency or lower --rate",
                self.missed
            ));
        }
        if !tally.latencies.is_empty() {
            lines.extend(latency_lines(&tally.latencies, self.rate.is_some()));
        }
        join_lines(lines)
    }

    pub(super) fn json(&self) -> Value {
        let tally = &self.tally;
        let mut json = json!({
            "service": self.service,
            "queue": self.queue,
            "method": self.method,
            "concurrency": self.concurrency,
            "rate": self.rate,
            "interrupted": self.is_interrupted,
            "seconds": self.time.as_secs_f64(),
            "calls": tally.calls(),
            "calls_per_second": per_second(tally.calls(), self.time),
            "outcomes": tally.outcomes,
            "missed": self.missed,
        });
        if self.is_streaming {
            json["items"] = json!(tally.items);
            json["items_per_second"] = json!(per_second(tally.items, self.time));
        }
        if let Some(failure) = &tally.failure {
            json["first_failure"] = json!(failure);
        }
        if !tally.latencies.is_empty() {
            let latencies = &tally.latencies;
            let mut latency =
                json!({"min": latencies.min(), "mean": latencies.mean(), "max": latencies.max()});
            for (name, quantile) in QUANTILES {
                let name = format!("p{}", name.trim_end_matches('%'));
                latency[name] = json!(latencies.value_at_quantile(quantile));
            }
            json["latency_ns"] = latency;
        }
        json
    }
}

fn show_nanos(nanos: u64) -> String {
    show_time(Duration::from_nanos(nanos))
}

/// Returns the extremes and the mean, the quantiles, and the bars. `from_due` is whether latencies
/// count from when calls were due.
fn latency_lines(latencies: &Histogram<u64>, from_due: bool) -> Vec<String> {
    let origin = if from_due { " from when calls were due" } else { "" };
    let mut lines = vec![
        String::new(),
        format!(
            "latency{origin}: min {}, mean {}, max {}",
            show_nanos(latencies.min()),
            show_nanos(latencies.mean() as u64),
            show_nanos(latencies.max())
        ),
    ];
    for (name, quantile) in QUANTILES {
        lines.push(format!(
            "  {name:>6}  {:>7}",
            show_nanos(latencies.value_at_quantile(quantile))
        ));
    }
    lines.push(String::new());
    lines.extend(bars(latencies));
    lines
}

/// Returns a line for each of at most [`MAX_BARS`] ranges of latencies: its share of the calls, and
/// a bar. The ranges grow by a constant factor, of at least 1.1 so that nearly equal latencies
/// share a bar.
fn bars(latencies: &Histogram<u64>) -> Vec<String> {
    let least = latencies.min().max(1) as f64;
    let factor = (latencies.max() as f64 / least)
        .powf(1.0 / MAX_BARS as f64)
        .max(1.1);
    let start_of = |range: i32| show_nanos((least * factor.powi(range)) as u64);
    let range_of = |nanos: u64| {
        let range = (nanos as f64 / least).log(factor);
        (range.max(0.0) as usize).min(MAX_BARS - 1)
    };
    let mut counts = vec![0; range_of(latencies.max()) + 1];
    for recorded in latencies.iter_recorded() {
        counts[range_of(recorded.value_iterated_to())] += recorded.count_at_value();
    }
    let highest = counts.iter().copied().max().unwrap_or(0).max(1);
    let bars = counts.iter().zip(0..).map(|(&count, range)| {
        let (from, to) = (start_of(range), start_of(range + 1));
        let share = count as f64 / latencies.len().max(1) as f64 * 100.0;
        let length = (count * MAX_BAR_LENGTH).div_ceil(highest);
        let bar = "#".repeat(usize::try_from(length).unwrap_or(0));
        format!("  {from:>7} .. {to:>7}  {share:>5.1}%  {bar}")
            .trim_end()
            .to_owned()
    });
    bars.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(millis: &[u64]) -> Report {
        let mut tally = Tally::default();
        for &millis in millis {
            tally.add(Ok(2), Duration::from_millis(millis));
        }
        Report {
            service: "Store".into(),
            queue: "q".into(),
            method: "get".into(),
            concurrency: 8,
            rate: Some(100),
            time: Duration::from_secs(2),
            missed: 0,
            is_interrupted: false,
            is_streaming: false,
            tally,
        }
    }

    #[test]
    fn a_report_has_calls_quantiles_and_bars() {
        let latencies: Vec<_> = (1..=100).collect();
        let text = report(&latencies).text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "Store.get on q: 100 calls per second, at most 8 in flight"
        );
        assert_eq!(lines[2], "calls     100 in 2.00s: 50.0 per second");
        assert_eq!(lines[3], "outcomes  ok 100");
        assert!(
            lines[5].starts_with("latency from when calls were due: min 1.00ms, mean 50.5ms, max 100ms"),
            "{text}"
        );
        assert_eq!(lines[6], "     50%   50.0ms");
        assert!(
            lines
                .iter()
                .any(|line| line.ends_with(&"#".repeat(MAX_BAR_LENGTH as usize))),
            "{text}"
        );
    }

    #[test]
    fn the_bars_add_up_to_all_calls() {
        for latencies in [&[7][..], &[1, 1, 1], &[1, 1000], &(1..2000).collect::<Vec<_>>()] {
            let bars = bars(&report(latencies).tally.latencies);
            assert!(bars.len() <= MAX_BARS, "{bars:?}");
            let share = |bar: &String| {
                bar.split('%')
                    .next()?
                    .split_whitespace()
                    .last()?
                    .parse::<f64>()
                    .ok()
            };
            let shares: f64 = bars.iter().filter_map(share).sum();
            assert!((shares - 100.0).abs() < 1.0, "{shares}: {bars:?}");
        }
    }

    #[test]
    fn the_items_of_streams_are_shown() {
        let mut report = report(&[1, 2]);
        assert!(!report.text().contains("items") && report.json().get("items").is_none());
        report.is_streaming = true;
        assert!(
            report.text().contains("\nitems     4: 2.0 per second\n"),
            "{}",
            report.text()
        );
        assert_eq!(report.json()["items_per_second"], json!(2.0));
    }

    #[test]
    fn failures_and_missed_calls_are_shown() {
        let mut report = report(&[]);
        report.missed = 3;
        report.is_interrupted = true;
        report.tally.failure = Some("oh".into());
        let text = report.text();
        assert!(
            text.contains(", interrupted\n") && text.contains("\nmissed    3 calls"),
            "{text}"
        );
        assert!(
            text.contains("first failure: oh") && !text.contains("latency"),
            "{text}"
        );
        assert_eq!(report.json()["latency_ns"], json!(null));
    }
}
