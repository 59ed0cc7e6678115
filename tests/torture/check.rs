//! Checks a history against the promises. Pure.

use std::collections::BTreeSet;

use crate::history::{Call, End, History, Method, Micros, Outcome, Ran, Received, Run};
use crate::inject::Incident;

/// How late a call may end on a busy machine.
const SLACK: Micros = 10_000_000;

/// How much longer than its limit a stream may last. The limit applies to each of its waits.
const LONGEST_STREAM: Micros = 60_000_000;

/// How long a run that receives a stream may last after its call has ended. It is cancelled after
/// 32 seconds without a message, which begin anew each time that its worker has lost its
/// connection.
const LONGEST_LEFT: Micros = 120_000_000;

/// How much earlier than its limit a stream that is resumed may be given up: it is not resumed if
/// the pause before that would end after the limit.
const LONGEST_PAUSE: Micros = 3_000_000;

/// A call with more time left than this, once all faults were healed, had enough: for heartbeats to
/// detect dead connections, for the backoff, and for the method.
const ENOUGH: Micros = 14_000_000;

/// A worker must not refuse a call that has waited for less than its time limit divided by this:
/// `BRIEF_WAIT_DIVISOR` in the runtime's `admission.rs`.
const BRIEF_WAIT_DIVISOR: u64 = 8;

/// A worker may overestimate the wait in its queue by this, plus the time for which it was stalled.
const MEASURE_ERROR: Micros = 150_000;

/// Returns the broken promises, each with the history of its call. All faults were healed at
/// `healed`. Assumes that no process was stalled for longer than `longest_stall`.
pub(crate) fn violations(
    history: &History,
    incidents: &[Incident],
    healed: Micros,
    longest_stall: Micros,
) -> Vec<String> {
    let mut found: Vec<_> = history
        .strays
        .iter()
        .map(|run| format!("a run of an unknown call: {run:?}"))
        .collect();
    for (name, call) in &history.calls {
        let judge = Judge {
            call,
            history,
            incidents,
            healed,
            longest_stall,
        };
        let broken = judge.broken();
        if !broken.is_empty() {
            found.push(judge.story(name, &broken));
        }
    }
    found
}

/// Checks one call.
struct Judge<'a> {
    call: &'a Call,
    history: &'a History,
    incidents: &'a [Incident],
    healed: Micros,
    longest_stall: Micros,
}

impl Judge<'_> {
    /// Returns the promises that were broken for this call.
    fn broken(&self) -> Vec<String> {
        let Some((_, took, outcome)) = &self.call.ended else {
            return vec!["it never ended".to_owned()];
        };
        let (call, runs) = (self.call, &self.call.runs);
        let mut broken = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                broken.push(what.to_owned());
            }
        };
        let kind = outcome.kind.as_str();
        let is_resumed = call.method == Method::Follow;
        let is_idempotent = call.method == Method::Read || is_resumed;
        let longest = match call.method.is_stream() {
            true => call.limit_us + LONGEST_STREAM,
            false => call.limit_us,
        };
        must(*took <= longest + SLACK, "it ended long after its deadline");
        // `overloaded` is the error of a call that waited for a permit until its limit.
        let has_timed_out = kind == "timed_out" || kind == "overloaded";
        must(
            !has_timed_out || *took >= call.limit_us,
            "it timed out before its time",
        );
        let measure_error = MEASURE_ERROR + self.longest_stall;
        // If a call was sent several times, `expired` would wrongly say that it did not run, so the
        // caller gets `interrupted`.
        let is_refused = kind == "expired" || (is_idempotent && kind == "interrupted");
        must(
            !is_refused || *took + measure_error >= call.limit_us / BRIEF_WAIT_DIVISOR,
            "it was refused as expired although most of its time was left",
        );
        must(
            kind != "mismatch",
            "its reply is another call's, or its items are not those of the stream",
        );
        must(
            kind != "not dropped",
            "it ended, and the stream that it sends was not dropped",
        );
        must(
            runs.iter().all(|run| self.items_are_right(run)),
            "a run received other items than those that were sent",
        );
        must(
            call.method != Method::Store || runs.iter().all(|run| self.left_in_time(run)),
            "a run went on long after its call had ended",
        );
        let workers: BTreeSet<_> = runs.iter().map(Run::worker).collect();
        must(
            is_idempotent || runs.len() <= 1 || (call.method.is_broadcast() && workers.len() == runs.len()),
            "it ran more than once, or more than once on a worker",
        );
        must(
            // The error of a stream that is resumed describes its last run.
            outcome.executed != Ran::No || runs.is_empty() || is_resumed,
            "it says that it did not run, and it ran",
        );
        must(
            outcome.executed != Ran::Yes || !runs.is_empty(),
            "it says that it ran, and it did not",
        );
        let has_ended = |name: &String| runs.iter().any(|run| run.name == *name && run.ended.is_some());
        must(
            outcome.run.as_ref().is_none_or(has_ended),
            "its reply is of a run that there was not, or that had not ended",
        );
        let listed: BTreeSet<_> = outcome.answers.iter().map(|(worker, _)| worker).collect();
        must(
            listed.len() == outcome.answers.len(),
            "it has two answers of a worker",
        );
        let is_own = |(worker, answer): &(String, Outcome)| {
            let mut own = runs.iter().filter(|run| run.worker() == worker);
            match (&answer.run, answer.executed) {
                (Some(name), _) => own.any(|run| run.name == *name && run.ended.is_some()),
                (None, Ran::Yes) => own.next().is_some(),
                (None, Ran::No) => own.next().is_none(),
                // A worker knows whether it ran the method.
                (None, Ran::Maybe) => false,
            }
        };
        must(
            kind != "miscounted" && outcome.answers.iter().all(is_own),
            "it has an answer that its worker did not give, or counts those that are missing wrongly",
        );
        must(
            outcome
                .answers
                .iter()
                .all(|(_, answer)| answer.kind != "mismatch"),
            "it has an answer of another broadcast",
        );
        must(
            kind != "limit" || *took >= call.limit_us,
            "gathering ended with its limit, but before it",
        );

        let queue_was_there = !self.queue_was_deleted();
        must(
            kind != "no_server" || !queue_was_there,
            "it was told that there is no queue, and there was",
        );
        // A resumed stream that has begun may end with any error after a wait as long as its limit.
        let is_final = match is_resumed && !runs.is_empty() {
            true => ["ok", "service", "panicked"].contains(&kind) || *took + LONGEST_PAUSE >= call.limit_us,
            false => {
                let final_kinds = ["ok", "service", "panicked", "no_server", "expired", "interrupted"];
                has_timed_out || final_kinds.contains(&kind)
            }
        };
        must(
            !is_idempotent || is_final || !queue_was_there,
            "it is idempotent, had time left, and was given up",
        );
        // Until a caller is told that all is healed, it makes calls with limits that are too short.
        let could_succeed_from = self.healed.max(call.at);
        let had_enough = call.until() > self.healed && call.deadline() > could_succeed_from + ENOUGH;
        must(
            // A resumed stream has its limit for each wait, and it notices a lost worker late.
            is_resumed || !(is_idempotent && had_enough && (has_timed_out || is_refused) && queue_was_there),
            "it is idempotent, had enough time when all was healed, and did not succeed",
        );
        let succeeded = match call.method {
            Method::Announce => kind == "sent",
            Method::Survey => {
                kind == "gathered" && outcome.answers.iter().all(|(_, answer)| answer.kind == "ok")
            }
            _ => kind == "ok",
        };
        must(
            !call.fresh || succeeded,
            "it was made when all was healed, and failed",
        );
        must(
            !call.fresh || call.expected.is_none_or(|workers| runs.len() == workers),
            "it was made when all was healed, and did not run on all workers",
        );
        broken
    }

    /// Returns whether a run received the first items of its call, in order, and saw the end of the
    /// stream only after all of them. True if it has received no stream.
    fn items_are_right(&self, run: &Run) -> bool {
        let Some((_, Received { items, in_order, end })) = &run.left else {
            return true;
        };
        let is_true = match end {
            None | Some(End::Enough | End::Interrupted) => *items <= self.call.sent,
            Some(End::Regular) => *items == self.call.sent,
            Some(End::Wrong(_)) => false,
        };
        is_true && *in_order
    }

    /// Returns whether a run that receives items ended soon after its call. Without a record of its
    /// end, it counts as lasting until the last record of its worker.
    fn left_in_time(&self, run: &Run) -> bool {
        let left = run.left.as_ref().map(|(at, _)| *at);
        let last_seen = self.history.last_seen.get(run.worker()).copied();
        let lasted_until = left.or(last_seen).unwrap_or_default();
        lasted_until <= self.call.until().max(run.started) + LONGEST_LEFT
    }

    /// Returns whether the request queue was deleted, with its requests, during the call.
    fn queue_was_deleted(&self) -> bool {
        let mut deletions = self.incidents.iter().filter(|it| it.deletes_the_queue());
        deletions.any(|it| it.overlaps(self.call.at, self.call.until()))
    }

    /// Returns the broken promises, the records of the call, and the faults during it.
    fn story(&self, name: &str, broken: &[String]) -> String {
        let begin = self.call.at;
        let after = |at: Micros| (at as f64 - begin as f64) / 1e6;
        let mut story = format!("call {name}: {}\n", broken.join("; "));
        for record in &self.call.records {
            story += &format!("    {:+8.3}s {record:?}\n", after(record.at()));
        }
        for incident in self.incidents {
            if incident.overlaps(begin, self.call.until()) {
                let (from, to) = (after(incident.from), after(incident.to));
                story += &format!("    {from:+8.3}s to {to:+.3}s {:?}\n", incident.fault);
            }
        }
        story
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Outcome, Record};
    use crate::plan::Fault;

    const SECOND: Micros = 1_000_000;
    const LIMIT: Micros = 5 * SECOND;

    fn called(method: Method) -> Record {
        Record::Called {
            at: 0,
            call: "a".into(),
            handle: "c0".into(),
            method,
            limit_us: LIMIT,
            work_ms: 0,
            sent: 0,
            expected: None,
            fresh: false,
        }
    }

    fn run(run: &str) -> [Record; 2] {
        let (call, name) = ("a".to_owned(), run.to_owned());
        [
            Record::RunStarted {
                at: 1,
                call: call.clone(),
                run: name.clone(),
                method: "write".into(),
                redelivered: false,
            },
            Record::RunEnded {
                at: 2,
                call,
                run: name,
            },
        ]
    }

    fn ended(took_us: Micros, outcome: Outcome) -> Record {
        Record::Ended {
            at: took_us,
            call: "a".into(),
            took_us,
            outcome,
        }
    }

    fn ok(run: &str) -> Outcome {
        Outcome {
            run: Some(run.into()),
            ..Outcome::named("ok", Ran::Yes)
        }
    }

    #[track_caller]
    fn assert_broken(records: impl IntoIterator<Item = Record>, what: Option<&str>) {
        let history = History::from_records(records.into_iter().collect());
        let found = violations(&history, &[], 200 * SECOND, 0);
        match what {
            None => assert_eq!(found, [""; 0]),
            Some(what) => assert!(found.len() == 1 && found[0].contains(what), "{found:?}"),
        }
    }

    #[test]
    fn a_call_that_ran_and_was_answered_breaks_no_promise() {
        let [started, done] = run("w0.1/1");
        assert_broken(
            [called(Method::Write), started, done, ended(3, ok("w0.1/1"))],
            None,
        );
    }

    #[test]
    fn each_broken_promise_is_found() {
        let write = || called(Method::Write);
        let (one, two) = (run("w0.1/1"), run("w1.1/1"));
        assert_broken([write()], Some("never ended"));
        let late = Outcome::named("timed_out", Ran::Maybe);
        assert_broken(
            [write(), ended(LIMIT + 11 * SECOND, late.clone())],
            Some("long after"),
        );
        assert_broken([write(), ended(LIMIT - 1, late.clone())], Some("before its time"));
        let held_back = Outcome::named("overloaded", Ran::No);
        assert_broken(
            [write(), ended(LIMIT - 1, held_back.clone())],
            Some("before its time"),
        );
        assert_broken([called(Method::Read), ended(LIMIT, held_back)], None);
        let refused = Outcome::named("expired", Ran::No);
        assert_broken([called(Method::Read), ended(LIMIT / 4, refused.clone())], None);
        assert_broken(
            [called(Method::Read), ended(LIMIT / 20, refused.clone())],
            Some("most of its time was left"),
        );
        let history = History::from_records(vec![called(Method::Read), ended(LIMIT / 20, refused)]);
        assert_eq!(violations(&history, &[], 200 * SECOND, SECOND / 2), [""; 0]);
        assert_broken([write(), ended(3, ok("w0.1/1"))], Some("it did not"));
        let twice = one.iter().chain(&two).cloned();
        let twice = twice.chain([write(), ended(3, ok("w0.1/1"))]);
        assert_broken(twice, Some("more than once"));
        let [started, _] = one.clone();
        let unfinished = [write(), started, ended(3, ok("w0.1/1"))];
        assert_broken(unfinished, Some("had not ended"));
        let denied = ended(LIMIT, Outcome::named("timed_out", Ran::No));
        assert_broken(one.into_iter().chain([write(), denied]), Some("and it ran"));
        let lost = ended(3, Outcome::named("broker: lost", Ran::Maybe));
        assert_broken([called(Method::Read), lost.clone()], Some("given up"));
        assert_broken([write(), lost], None);
        let absent = ended(3, Outcome::named("no_server", Ran::No));
        assert_broken([write(), absent], Some("there was"));
    }

    #[test]
    fn each_broken_promise_of_a_broadcast_is_found() {
        let survey = |answers: &[(&str, Outcome)], runs: &[&str]| {
            let answers = answers
                .iter()
                .map(|(worker, answer)| ((*worker).to_owned(), answer.clone()));
            let outcome = Outcome {
                answers: answers.collect(),
                ..Outcome::named("gathered", Ran::Maybe)
            };
            let runs = runs.iter().flat_map(|name| run(name));
            let mut records: Vec<_> = runs.chain([ended(3, outcome)]).collect();
            records.insert(0, called(Method::Survey));
            records
        };
        let (one, two) = ("w0.1/1", "w1.1/1");
        let answers = [("w0.1", ok(one)), ("w1.1", ok(two))];
        assert_broken(survey(&answers, &[one, two]), None);
        assert_broken(survey(&answers[..1], &[one, two]), None);
        assert_broken(
            survey(&answers, &[one, two, "w0.1/2"]),
            Some("more than once on a worker"),
        );
        let twice = [("w0.1", ok(one)), ("w0.1", ok(one))];
        assert_broken(survey(&twice, &[one, two]), Some("two answers of a worker"));
        let swapped = [("w0.1", ok(two)), ("w1.1", ok(one))];
        assert_broken(survey(&swapped, &[one, two]), Some("did not give"));
        assert_broken(survey(&answers, &[one]), Some("did not give"));
        let rejected = [("w0.1", Outcome::named("rejected", Ran::No))];
        assert_broken(survey(&rejected, &[]), None);
        assert_broken(survey(&rejected, &[one]), Some("did not give"));
        let mixed_up = Outcome {
            kind: "mismatch".to_owned(),
            ..ok(one)
        };
        assert_broken(
            survey(&[("w0.1", mixed_up)], &[one]),
            Some("of another broadcast"),
        );
        let miscounted = ended(3, Outcome::named("miscounted", Ran::Maybe));
        assert_broken([called(Method::Survey), miscounted], Some("counts those"));
        let early = ended(3, Outcome::named("limit", Ran::Maybe));
        assert_broken([called(Method::Survey), early], Some("but before it"));

        let mut fresh = survey(&answers, &[one, two]);
        if let Record::Called { fresh, expected, .. } = &mut fresh[0] {
            (*fresh, *expected) = (true, Some(2));
        }
        assert_broken(fresh.clone(), None);
        if let Record::Called { expected, .. } = &mut fresh[0] {
            *expected = Some(3);
        }
        assert_broken(fresh, Some("did not run on all workers"));
    }

    #[test]
    fn each_broken_promise_of_a_call_that_sends_a_stream_is_found() {
        let store = || {
            let mut called = called(Method::Store);
            if let Record::Called { sent, .. } = &mut called {
                *sent = 3;
            }
            called
        };
        let left = |at, items, in_order, end| Record::RunLeft {
            at,
            call: "a".into(),
            run: "w0.1/1".into(),
            received: Received { items, in_order, end },
        };
        let lost = || ended(9, Outcome::named("broker: lost", Ran::Maybe));
        let [started, done] = run("w0.1/1");
        let judge = |left: Record, what| assert_broken([store(), started.clone(), left, lost()], what);
        for (items, end) in [
            (3, End::Regular),
            (3, End::Enough),
            (2, End::Enough),
            (1, End::Interrupted),
        ] {
            judge(left(5, items, true, Some(end)), None);
        }
        judge(left(5, 2, true, None), None);
        judge(left(5, 2, true, Some(End::Regular)), Some("other items"));
        judge(left(5, 4, true, Some(End::Regular)), Some("other items"));
        judge(left(5, 4, true, None), Some("other items"));
        judge(left(5, 3, false, Some(End::Regular)), Some("other items"));
        judge(
            left(5, 3, true, Some(End::Wrong("bad".into()))),
            Some("other items"),
        );
        judge(left(120 * SECOND, 2, true, None), None);
        judge(left(121 * SECOND, 2, true, None), Some("went on"));
        let later = |at, run: &str| Record::RunStarted {
            at,
            call: "b".into(),
            run: run.into(),
            method: "read".into(),
            redelivered: false,
        };
        let records = [store(), started.clone(), lost(), later(121 * SECOND, "w0.1/2")];
        let history = History::from_records(records.to_vec());
        let found = violations(&history, &[], 200 * SECOND, 0);
        assert!(found.iter().any(|it| it.contains("went on")), "{found:?}");
        // The worker was replaced.
        let records = [store(), started.clone(), lost(), later(121 * SECOND, "w0.2/1")];
        let history = History::from_records(records.to_vec());
        let found = violations(&history, &[], 200 * SECOND, 0);
        assert!(!found.iter().any(|it| it.contains("went on")), "{found:?}");
        let outcome = Outcome::named("not dropped", Ran::Yes);
        assert_broken([store(), started, done, ended(9, outcome)], Some("not dropped"));
    }

    #[test]
    fn a_stream_that_is_resumed_is_not_given_up_before_its_limit() {
        let follow = || called(Method::Follow);
        let runs = || run("w0.1/1").into_iter().chain(run("w1.1/1"));
        let interrupted = Outcome::named("interrupted", Ran::Maybe);
        assert_broken(
            runs().chain([follow(), ended(2 * SECOND, interrupted.clone())]),
            None,
        );
        assert_broken(
            runs().chain([follow(), ended(SECOND, interrupted)]),
            Some("given up"),
        );
        let absent = ended(LIMIT, Outcome::named("expired", Ran::No));
        assert_broken(runs().chain([follow(), absent]), None);
        let whole = ended(9, Outcome::named("ok", Ran::Yes));
        assert_broken(runs().chain([follow(), whole]), None);
    }

    #[test]
    fn a_call_reports_a_missing_queue_only_while_the_queue_is_deleted() {
        let absent = ended(3, Outcome::named("no_server", Ran::No));
        let history = History::from_records(vec![called(Method::Read), absent]);
        let deletion = |from, to| Incident {
            name: "deletion",
            victim: None,
            from,
            to,
            fault: Fault::DeleteQueue,
        };
        assert_eq!(violations(&history, &[deletion(2, 9)], SECOND, 0), [""; 0]);
        assert_eq!(violations(&history, &[deletion(4, 9)], SECOND, 0).len(), 1);
    }

    #[test]
    fn idempotent_calls_with_enough_time_after_the_last_fault_must_succeed() {
        let mut late = called(Method::Read);
        if let Record::Called { limit_us, .. } = &mut late {
            *limit_us = 20 * SECOND;
        }
        let mut timed_out = ended(20 * SECOND, Outcome::named("timed_out", Ran::Maybe));
        let history = History::from_records(vec![late.clone(), timed_out.clone()]);
        assert_eq!(violations(&history, &[], 5 * SECOND, 0).len(), 1);
        assert_eq!(violations(&history, &[], 7 * SECOND, 0), [""; 0]);
        // It was made when all had been healed for long, with too little time.
        if let Record::Called { at, limit_us, .. } = &mut late {
            (*at, *limit_us) = (18 * SECOND, 2 * SECOND);
        }
        if let Record::Ended { took_us, .. } = &mut timed_out {
            *took_us = 2 * SECOND;
        }
        let history = History::from_records(vec![late, timed_out]);
        assert_eq!(violations(&history, &[], SECOND, 0), [""; 0]);
    }
}
