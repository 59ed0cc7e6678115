//! The outcomes of calls, and the figures of a window.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use super::plan::as_f64;

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    /// The method did not run, for this reason.
    Refused(String),
    /// The caller gave up, and the method may have run.
    TimedOut,
    /// The call failed for this reason, and the method may have run.
    Failed(String),
}

/// A call that ended. Times count from the beginning of the load.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) due: Duration,
    pub(crate) at: Duration,
    pub(crate) end: End,
    pub(crate) is_important: bool,
    /// Whether there is a greedy caller, and another one made this call.
    pub(crate) is_modest: bool,
}

impl Ended {
    pub(crate) fn latency(&self) -> Duration {
        self.at.saturating_sub(self.due)
    }

    fn is_in_time(&self, deadline: Duration) -> bool {
        self.end == End::Answered && self.latency() <= deadline
    }
}

/// A run of the method that ended, at this time from the beginning of the load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran {
    pub(crate) at: Duration,
    pub(crate) is_wasted: bool,
}

/// The figures of a window.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// Calls due a second.
    pub(crate) offered: f64,
    /// Calls answered in time a second.
    pub(crate) goodput: f64,
    /// The latency of calls answered in time, counted from when they were due; `None` if there was
    /// none.
    pub(crate) latency: Option<Quantiles>,
    /// The same for all calls that were marked important. A call that was not answered in time
    /// counts as if it took until the deadline, because a refusal is not a fast answer.
    pub(crate) important: Option<Quantiles>,
    /// The share of the calls of modest callers that were answered in time; `None` if none ended.
    pub(crate) modest: Option<f64>,
    /// Methods that ended a second.
    pub(crate) ran: f64,
    /// The share of them whose caller had given up, 0 if none ended.
    pub(crate) wasted: f64,
    /// Calls a second that did not run, by reason.
    pub(crate) refused: BTreeMap<String, f64>,
    /// Calls a second whose caller gave up, or whose answer came too late.
    pub(crate) timed_out: f64,
    /// Calls a second that failed in another way, by reason.
    pub(crate) failed: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Quantiles {
    /// Returns the quantiles of these latencies; `None` if there are none.
    pub(crate) fn of(latencies: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut sorted: Vec<_> = latencies.into_iter().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(Self {
            p50: sorted[last / 2],
            p99: sorted[(sorted.len() * 99).div_ceil(100) - 1],
        })
    }
}

/// Everything that happened under a load.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) deadline: Duration,
    /// When calls were due, also those that were dropped before they ended.
    pub(crate) due: Vec<Duration>,
    /// The calls that ended, without those that were dropped.
    pub(crate) calls: Vec<Ended>,
    pub(crate) runs: Vec<Ran>,
    /// The greatest delay between when a call was due and when its task was spawned.
    pub(crate) greatest_lag: Duration,
}

impl Record {
    /// Returns the figures of a window: of calls and methods that ended within it, whenever they
    /// began, and how many calls were due within it.
    pub(crate) fn summary(&self, window: Range<Duration>) -> Summary {
        let seconds = (window.end - window.start).as_secs_f64();
        let a_second = |count: usize| as_f64(count) / seconds;
        let mut refused = BTreeMap::new();
        let mut failed = BTreeMap::new();
        let mut timed_out = 0;
        let mut in_time = Vec::new();
        for call in self.calls.iter().filter(|call| window.contains(&call.at)) {
            match &call.end {
                End::Answered if call.is_in_time(self.deadline) => in_time.push(call),
                End::Answered | End::TimedOut => timed_out += 1,
                End::Refused(why) => *refused.entry(why.clone()).or_default() += 1,
                End::Failed(why) => *failed.entry(why.clone()).or_default() += 1,
            }
        }
        let ran: Vec<_> = self.runs.iter().filter(|run| window.contains(&run.at)).collect();
        let wasted = ran.iter().filter(|run| run.is_wasted).count();
        let due = self.due.iter().filter(|due| window.contains(*due));
        let rates = |counts: BTreeMap<String, usize>| {
            let rates = counts.into_iter().map(|(why, count)| (why, a_second(count)));
            rates.collect()
        };
        Summary {
            offered: a_second(due.count()),
            goodput: a_second(in_time.len()),
            latency: Quantiles::of(in_time.iter().map(|call| call.latency())),
            important: self.important(&window),
            modest: self.modest_share(&window),
            ran: a_second(ran.len()),
            wasted: as_f64(wasted) / as_f64(ran.len().max(1)),
            refused: rates(refused),
            timed_out: a_second(timed_out),
            failed: rates(failed),
        }
    }

    fn important(&self, window: &Range<Duration>) -> Option<Quantiles> {
        let calls = self.calls.iter();
        let important = calls.filter(|call| call.is_important && window.contains(&call.at));
        Quantiles::of(important.map(|call| match call.is_in_time(self.deadline) {
            true => call.latency(),
            false => self.deadline,
        }))
    }

    fn modest_share(&self, window: &Range<Duration>) -> Option<f64> {
        let calls = self.calls.iter();
        let modest = calls.filter(|call| call.is_modest && window.contains(&call.at));
        let (all, answered) = modest.fold((0, 0), |(all, answered), call| {
            (all + 1, answered + usize::from(call.is_in_time(self.deadline)))
        });
        (all > 0).then(|| as_f64(answered) / as_f64(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn call(due: u64, at: u64, end: End) -> Ended {
        Ended {
            due: millis(due),
            at: millis(at),
            end,
            is_important: at == 1210 || at == 1300,
            is_modest: at == 900 || at == 1210 || at == 1300,
        }
    }

    #[test]
    fn quantiles_are_of_the_sorted_latencies() {
        let quantiles = Quantiles::of((1..=100).rev().map(millis)).unwrap();
        assert_eq!(quantiles.p50, millis(50));
        assert_eq!(quantiles.p99, millis(99));
        assert_eq!(Quantiles::of([]), None);
        assert_eq!(Quantiles::of([millis(7)]).unwrap().p99, millis(7));
    }

    #[test]
    fn only_what_ends_in_the_window_counts() {
        let record = Record {
            deadline: millis(1000),
            due: [0, 900, 1000, 1100, 1200, 1900, 2000].map(millis).to_vec(),
            calls: vec![
                call(0, 900, End::Answered),
                call(900, 1000, End::Answered),
                call(1000, 1300, End::Answered),
                call(1100, 2200, End::Answered),
                call(1200, 1210, End::Refused("expired".to_owned())),
                call(1900, 2900, End::TimedOut),
                call(2000, 3000, End::TimedOut),
            ],
            runs: vec![
                Ran {
                    at: millis(1000),
                    is_wasted: false,
                },
                Ran {
                    at: millis(2500),
                    is_wasted: true,
                },
                Ran {
                    at: millis(3500),
                    is_wasted: true,
                },
            ],
            greatest_lag: Duration::ZERO,
        };
        let summary = record.summary(millis(1000)..millis(3000));
        let is = |figure: f64, expected: f64| (figure - expected).abs() < 1e-9;
        assert!(is(summary.offered, 2.5));
        assert!(is(summary.goodput, 1.0));
        assert!(is(summary.timed_out, 1.0));
        assert!(is(summary.refused["expired"], 0.5));
        assert!(is(summary.ran, 1.0));
        assert!(is(summary.wasted, 0.5));
        assert_eq!(summary.latency.unwrap().p99, millis(300));
        let important = summary.important.unwrap();
        assert_eq!([important.p50, important.p99], [300, 1000].map(millis));
        assert!(is(summary.modest.unwrap(), 0.5));
    }
}
