//! The summary of a run.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::history::{Call, History, Method, Micros};
use crate::inject::Incident;

/// How many violations are printed in full.
const SHOWN: usize = 10;

/// Prints the summary, and the first [`SHOWN`] violations in full.
pub(crate) fn print(history: &History, incidents: &[Incident], violations: &[String]) {
    let runs: usize = history.calls.values().map(|call| call.runs.len()).sum();
    let fresh = history.calls.values().filter(|call| call.fresh).count();
    println!(
        "\n{} calls while faults came and went, {fresh} when all was healed; {runs} runs",
        history.calls.len() - fresh
    );
    print_shares(history);
    print_outcomes(history);
    print_faults(history, incidents);
    match violations.len() {
        0 => println!("\nevery promise was kept"),
        count => println!("\n{count} VIOLATIONS"),
    }
    for violation in violations.iter().take(SHOWN) {
        println!("\n{}", violation.trim_end());
    }
}

/// Prints the outcomes of the calls during the faults, of all methods together. Results, gathered
/// answers, errors of the method and panics are one outcome, `answered`.
fn print_shares(history: &History) {
    let mut shares: BTreeMap<_, u32> = BTreeMap::new();
    let (mut calls, mut well) = (0, 0);
    for call in history.calls.values().filter(|call| !call.fresh) {
        let Some((.., outcome)) = &call.ended else {
            continue;
        };
        let share = match outcome.kind.as_str() {
            "ok" | "service" | "panicked" | "gathered" => "answered".to_owned(),
            kind => format!("{kind}, {:?}", outcome.executed),
        };
        calls += 1;
        well += u32::from(share == "answered" || outcome.kind == "sent");
        *shares.entry(share).or_default() += 1;
    }
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by_key(|(_, count)| Reverse(*count));
    println!("\n{:26}{:>8}{:>9}", "outcome, executed", "calls", "share");
    let percent = |count: u32| 100.0 * f64::from(count) / f64::from(calls);
    for (share, count) in shares {
        println!("{share:26}{count:>8}{:>7.1} %", percent(count));
    }
    println!("answered, or sent where one-way: {:.1} %", percent(well));
}

/// Prints the outcomes of the calls during the faults by method, with the times that they took.
fn print_outcomes(history: &History) {
    let mut outcomes: BTreeMap<_, Vec<Micros>> = BTreeMap::new();
    let mut latest = 0;
    for call in history.calls.values().filter(|call| !call.fresh) {
        let Some((_, took, outcome)) = &call.ended else {
            continue;
        };
        let method = match call.method {
            Method::Read => "read  (idempotent)",
            Method::Write => "write",
            Method::Note => "note  (one-way)",
            Method::Survey => "survey (all workers)",
            Method::Announce => "announce (one-way)",
            Method::List => "list (stream)",
            Method::Follow => "follow (resumed)",
            Method::Store => "store (upload)",
        };
        let kind = (method, outcome.kind.as_str(), outcome.executed);
        outcomes.entry(kind).or_default().push(*took);
        latest = latest.max(took.saturating_sub(call.limit_us));
    }
    println!(
        "\n{:21}{:26}{:>8}{:>11}{:>11}",
        "method", "outcome, executed", "calls", "p50", "p99"
    );
    for ((method, kind, executed), mut took) in outcomes {
        let [p50, p99] = quantiles(&mut took);
        let outcome = format!("{kind}, {executed:?}");
        println!("{method:21}{outcome:26}{:>8}{p50:>11}{p99:>11}", took.len());
    }
    println!("latest end after a deadline: {}", seconds(latest));
    let went_on = |call: &&Call| call.method == Method::Follow && call.is("ok") && call.runs.len() > 1;
    let resumed = history.calls.values().filter(went_on).count();
    println!("streams that were resumed and are whole: {resumed}");
}

/// Prints how often each fault happened, and how soon the affected parts worked again.
fn print_faults(history: &History, incidents: &[Incident]) {
    let recovery = Recovery::of(history);
    // By name: how often it happened, recoveries that another fault met, and times of the others.
    let mut faults: BTreeMap<_, (usize, usize, Vec<Micros>)> = BTreeMap::new();
    for incident in incidents {
        let (count, met, took) = faults.entry(incident.name).or_default();
        *count += 1;
        for recovery in recovery.after(incident, incidents) {
            match recovery {
                Some(recovery) => took.push(recovery),
                None => *met += 1,
            }
        }
    }
    println!(
        "\n{:26}{:>8}{:>8}{:>12}{:>11}{:>11}{:>11}",
        "fault", "times", "met", "recoveries", "p50", "p99", "slowest"
    );
    for (name, (count, met, mut took)) in faults {
        let [p50, p99] = quantiles(&mut took);
        let slowest = took.last().map_or("-".to_owned(), |slowest| seconds(*slowest));
        println!(
            "{name:26}{count:>8}{met:>8}{:>12}{p50:>11}{p99:>11}{slowest:>11}",
            took.len()
        );
    }
    println!(
        "a recovery: from a fault's end to the next answer that a caller's handle gets, or the next run that a worker \
         begins; met: where another fault met it first, so that this says nothing"
    );
}

/// When each part of each process worked: an answer arrived at a handle of a caller, or a run began
/// at a worker.
struct Recovery {
    /// By member, such as `c0`, and handle. The handle is empty for a worker.
    parts: BTreeMap<(String, String), Vec<Micros>>,
}

impl Recovery {
    fn of(history: &History) -> Self {
        let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut worked = |name: &str, at| {
            // A caller has three handles, such as `c0.1-Direct`. A worker `w1.1` and those that
            // replace it, such as `w1.2`, are the same part.
            let member = name.split('.').next().unwrap_or_default().to_owned();
            let handle = name.split_once('-').map_or("", |(_, handle)| handle).to_owned();
            parts.entry((member, handle)).or_default().push(at);
        };
        for call in history.calls.values() {
            if let Call {
                ended: Some((at, ..)),
                handle,
                ..
            } = call
                && (call.is("ok") || call.is("service"))
            {
                worked(handle, *at);
            }
            for run in &call.runs {
                worked(run.worker(), run.started);
            }
        }
        parts.values_mut().for_each(|times| times.sort_unstable());
        Self { parts }
    }

    /// Returns how long each affected part took to work again once this fault was healed. `None` if
    /// another fault met the part before that. Omits parts that did not work again.
    fn after(&self, incident: &Incident, all: &[Incident]) -> Vec<Option<Micros>> {
        let mut took = Vec::new();
        for ((member, _), times) in &self.parts {
            let concerns = |it: &&Incident| it.victim.is_none_or(|victim| victim.to_string() == *member);
            if !concerns(&incident) {
                continue;
            }
            let next = times.partition_point(|at| *at <= incident.to);
            let Some(at) = times.get(next).copied() else {
                continue;
            };
            let mut others = all.iter().filter(|it| !std::ptr::eq(*it, incident));
            let alone = !others.any(|it| concerns(&it) && it.overlaps(incident.from, at));
            took.push(alone.then_some(at - incident.to));
        }
        took
    }
}

/// Sorts the values, and returns the median and the 99th percentile as text.
fn quantiles(values: &mut [Micros]) -> [String; 2] {
    values.sort_unstable();
    [50, 99].map(|percent| match values.len() {
        0 => "-".to_owned(),
        count => seconds(values[(count - 1) * percent / 100]),
    })
}

fn seconds(micros: Micros) -> String {
    format!("{:.3}s", micros as f64 / 1e6)
}
