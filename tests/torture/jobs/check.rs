//! Checks a history of jobs against the promises: above all, each confirmed job is done or dead. A
//! job is dead if it is in the dead-letter queue. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use anyhow::Context as _;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use serde::Deserialize;

use super::service::{ATTEMPTS, Job, Record};
use crate::inject::Incident;

/// How many violations are printed in full.
const SHOWN: usize = 10;

/// A message in the dead-letter queue.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    job: String,
    reason: String,
    attempts: u32,
}

/// Everything about one job.
#[derive(Debug, Default)]
struct JobHistory {
    /// `None` if no caller recorded that it sent it, although others know it. That is a violation.
    job: Option<Job>,
    delay_us: u64,
    sent: u64,
    /// `None` if the call never returned, because its caller was killed. Otherwise its error, or
    /// `Some(None)` if the broker has confirmed the job.
    returned: Option<Option<String>>,
    /// The numbers of the attempts that began, from 1, in the order of their runs.
    attempts: Vec<u32>,
    first_run: Option<u64>,
    was_redelivered: bool,
    /// Whether a run has succeeded.
    is_done: bool,
    letters: Vec<Letter>,
    records: Vec<Record>,
}

/// Everything that happened.
#[derive(Debug)]
pub(super) struct History {
    jobs: BTreeMap<String, JobHistory>,
}

impl Letter {
    /// Reads a dead letter. Its attempts are 0 if the header is missing or invalid.
    pub(super) fn of(delivery: &Delivery) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Arguments {
            job: Job,
        }

        let arguments: Arguments = rmp_serde::from_slice(&delivery.data).context("a dead letter's body")?;
        let headers = delivery.properties.headers().as_ref();
        let text = |name: &str| match headers.and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        };
        Ok(Self {
            job: arguments.job.name,
            reason: text("rpc-reason"),
            attempts: text("rpc-attempts").parse().unwrap_or(0),
        })
    }
}

impl History {
    pub(super) fn new(mut records: Vec<Record>, letters: Vec<Letter>) -> Self {
        let mut jobs: BTreeMap<String, JobHistory> = BTreeMap::new();
        records.sort_by_key(Record::at);
        for record in records {
            let name = match &record {
                Record::Sent { job, .. } => &job.name,
                Record::Returned { job, .. }
                | Record::RunStarted { job, .. }
                | Record::RunEnded { job, .. } => job,
            };
            jobs.entry(name.clone()).or_default().add(record);
        }
        for letter in letters {
            jobs.entry(letter.job.clone()).or_default().letters.push(letter);
        }
        Self { jobs }
    }

    /// Returns the broken promises, each with the history of the job.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, job) in &self.jobs {
            let broken = job.broken();
            if !broken.is_empty() {
                found.push(job.story(name, &broken));
            }
        }
        found
    }

    /// Prints a summary, and the first [`SHOWN`] violations in full.
    pub(super) fn print(&self, incidents: &[Incident], violations: &[String]) {
        let count = |is: fn(&JobHistory) -> bool| self.jobs.values().filter(|job| is(job)).count();
        let confirmed = count(JobHistory::is_confirmed);
        let runs: usize = self.jobs.values().map(|job| job.attempts.len()).sum();
        println!(
            "\n{} jobs sent, {confirmed} of them confirmed; {runs} runs",
            self.jobs.len()
        );
        for (what, jobs) in [
            (
                "confirmed and done",
                count(|job| job.is_confirmed() && job.is_done),
            ),
            (
                "confirmed and dead",
                count(|job| job.is_confirmed() && !job.letters.is_empty()),
            ),
            ("confirmed and missing", count(JobHistory::is_missing)),
            (
                "not confirmed, but done or dead",
                count(|job| !job.is_confirmed() && job.has_ended()),
            ),
            ("retried", count(|job| job.attempts.contains(&2))),
            ("ran an attempt more than once", count(JobHistory::ran_twice)),
            ("dead more than once", count(|job| job.letters.len() > 1)),
        ] {
            println!("{what:40}{jobs:>9}");
        }
        let mut reasons: HashMap<&str, u32> = HashMap::new();
        for letter in self.jobs.values().flat_map(|job| &job.letters) {
            *reasons.entry(&letter.reason).or_default() += 1;
        }
        println!("dead letters by reason: {reasons:?}");
        let mut faults: BTreeMap<&str, u32> = BTreeMap::new();
        for incident in incidents {
            *faults.entry(incident.name).or_default() += 1;
        }
        println!("faults: {faults:?}");
        match violations.len() {
            0 => println!("\nevery promise was kept"),
            count => println!("\n{count} VIOLATIONS"),
        }
        for violation in violations.iter().take(SHOWN) {
            println!("\n{}", violation.trim_end());
        }
    }
}

impl JobHistory {
    fn add(&mut self, record: Record) {
        match &record {
            Record::Sent { at, job, delay_ms } => {
                (self.sent, self.delay_us) = (*at, 1000 * delay_ms);
                self.job = Some(job.clone());
            }
            Record::Returned { error, .. } => self.returned = Some(error.clone()),
            Record::RunStarted {
                at,
                attempt,
                redelivered,
                ..
            } => {
                self.first_run.get_or_insert(*at);
                self.attempts.push(*attempt);
                self.was_redelivered |= *redelivered;
            }
            Record::RunEnded { succeeded, .. } => self.is_done |= *succeeded,
        }
        self.records.push(record);
    }

    fn is_confirmed(&self) -> bool {
        matches!(self.returned, Some(None))
    }

    fn has_ended(&self) -> bool {
        self.is_done || !self.letters.is_empty()
    }

    /// Returns whether the broker had the job, which is neither done nor dead. A job that began is
    /// as good as confirmed.
    fn is_missing(&self) -> bool {
        (self.is_confirmed() || !self.attempts.is_empty()) && !self.has_ended()
    }

    /// Returns whether an attempt ran more than once.
    fn ran_twice(&self) -> bool {
        self.attempts.len() > self.attempts.iter().collect::<BTreeSet<_>>().len()
    }

    /// Returns the promises that were broken for this job.
    fn broken(&self) -> Vec<&'static str> {
        let Some(job) = &self.job else {
            return vec!["it was never sent"];
        };
        let mut broken = Vec::new();
        let mut must = |holds: bool, what| {
            if !holds {
                broken.push(what);
            }
        };
        must(!self.is_missing(), "it is neither done nor dead");
        let numbers: BTreeSet<_> = self.attempts.iter().copied().collect();
        must(
            numbers.iter().copied().eq(1..=numbers.len() as u32),
            "its attempts have a gap",
        );
        // As many as it needs.
        let attempts = ATTEMPTS.min(job.failures + 1);
        must(
            numbers.len() as u32 <= attempts,
            "it was tried again after it had ended",
        );
        // It was redelivered too often, because its workers were lost.
        let was_interrupted = self.letters.iter().any(|letter| letter.reason == "interrupted");
        let must_die = job.failures >= ATTEMPTS;
        must(
            was_interrupted || must_die || self.letters.is_empty(),
            "it is dead, and should be done",
        );
        let reason = if job.panics { "panicked" } else { "error" };
        let is_planned = |letter: &Letter| {
            letter.reason == "interrupted" || (letter.reason == reason && letter.attempts == ATTEMPTS)
        };
        must(
            self.letters.iter().all(is_planned),
            "its dead letter has a wrong reason or a wrong number of attempts",
        );
        must(
            self.first_run.is_none_or(|run| run >= self.sent + self.delay_us),
            "it ran before its delay had passed",
        );
        if job.fresh {
            must(
                self.is_confirmed(),
                "it was sent when all was healed, and is not confirmed",
            );
            must(
                !self.was_redelivered && self.attempts.iter().copied().eq(1..=attempts),
                "it was sent when all was healed, and ran twice",
            );
            must(
                self.letters.len() == usize::from(must_die),
                "it was sent when all was healed, and died twice",
            );
        }
        broken
    }

    /// Returns the broken promises, the records of the job, and its dead letters.
    fn story(&self, name: &str, broken: &[&str]) -> String {
        let mut story = format!("job {name}: {}\n", broken.join("; "));
        for record in &self.records {
            let after = (record.at() as f64 - self.sent as f64) / 1e6;
            let _ = writeln!(story, "    {after:+8.3}s {record:?}");
        }
        for letter in &self.letters {
            let _ = writeln!(story, "    {letter:?}");
        }
        story
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(failures: u32) -> Job {
        Job {
            name: "a".into(),
            work_ms: 0,
            failures,
            panics: false,
            fresh: false,
        }
    }

    fn sent(job: Job) -> Vec<Record> {
        let (name, at) = (job.name.clone(), 0);
        vec![
            Record::Sent { at, job, delay_ms: 0 },
            Record::Returned {
                at,
                job: name,
                error: None,
            },
        ]
    }

    fn ran(attempt: u32, succeeded: bool) -> [Record; 2] {
        let (job, at) = ("a".to_owned(), 1);
        [
            Record::RunStarted {
                at,
                job: job.clone(),
                run: 1,
                attempt,
                redelivered: false,
            },
            Record::RunEnded {
                at,
                job,
                attempt,
                succeeded,
            },
        ]
    }

    fn letter(reason: &str, attempts: u32) -> Letter {
        Letter {
            job: "a".into(),
            reason: reason.into(),
            attempts,
        }
    }

    #[track_caller]
    fn assert_broken(job: Job, runs: &[[Record; 2]], letters: Vec<Letter>, what: Option<&str>) {
        let records = sent(job).into_iter().chain(runs.iter().flatten().cloned());
        let found = History::new(records.collect(), letters).violations();
        match what {
            None => assert_eq!(found, [""; 0]),
            Some(what) => assert!(found.len() == 1 && found[0].contains(what), "{found:?}"),
        }
    }

    #[test]
    fn a_job_that_is_done_or_dead_breaks_no_promise() {
        assert_broken(job(0), &[ran(1, true)], vec![], None);
        assert_broken(
            job(1),
            &[ran(1, false), ran(1, false), ran(2, true)],
            vec![],
            None,
        );
        let all = [1, 2, 3, 4].map(|attempt| ran(attempt, false));
        assert_broken(job(4), &all, vec![letter("error", 4)], None);
        assert_broken(job(0), &[], vec![letter("interrupted", 1)], None);
    }

    #[test]
    fn each_broken_promise_is_found() {
        assert_broken(job(0), &[], vec![], Some("neither done nor dead"));
        assert_broken(job(1), &[ran(1, false)], vec![], Some("neither done nor dead"));
        assert_broken(job(2), &[ran(1, false), ran(3, true)], vec![], Some("gap"));
        assert_broken(
            job(0),
            &[ran(1, true), ran(2, true)],
            vec![],
            Some("after it had ended"),
        );
        assert_broken(
            job(0),
            &[ran(1, true)],
            vec![letter("error", 4)],
            Some("should be done"),
        );
        let all = [1, 2, 3, 4].map(|attempt| ran(attempt, false));
        assert_broken(job(4), &all, vec![letter("error", 3)], Some("wrong number"));
        assert_broken(job(4), &all, vec![letter("panicked", 4)], Some("wrong reason"));
        let mut fresh = job(0);
        fresh.fresh = true;
        assert_broken(fresh, &[ran(1, true), ran(1, true)], vec![], Some("ran twice"));
    }
}
