//! Checks a history against the promises of `docs/reliability.md`, which has their numbers.

use super::check::{Check, TICK, fail_if, longest_cancellation};
use super::faults::Profile;
use super::history::{CallOutcome, CallRecord, Failure, History, Run};
use super::scenario::{Method, Scenario};
use super::times::LONG_TIMEOUT;
use super::{broadcasts, jobs, streams, uploads};
use crate::protocol::Executed;

/// Describes all broken promises and the problems of the cluster.
pub(super) fn violations(scenario: &Scenario, history: &History) -> Vec<String> {
    let mut broken = history.problems.clone();
    for (id, call) in history.calls.iter().enumerate() {
        let runs = history.runs_of(id).count();
        let first_runs = history.runs_of(id).filter(|run| !run.is_redelivered).count();
        let promises = [
            ends_in_time(call),
            gets_its_own_reply(id, call),
            reports_executed_correctly(call, runs, first_runs),
            runs_at_most_once(call, runs),
            succeeds(scenario, call),
            survives_mild_faults(scenario, call, runs),
            stops_when_abandoned(scenario, call, history.runs_of(id)),
            finds_its_queue(scenario, call),
        ];
        broken.extend(promises.into_iter().filter_map(|kept| {
            let reason = kept.err()?;
            Some(format!("{} {reason}", history.describe_call(id)))
        }));
    }
    broken.extend(jobs::violations(scenario, &history.jobs));
    broken.extend(broadcasts::violations(scenario, &history.broadcasts));
    broken.extend(streams::violations(scenario, &history.streams));
    broken.extend(uploads::violations(scenario, &history.uploads));
    broken
}

/// Promise 1: every call ends by its deadline.
fn ends_in_time(call: &CallRecord) -> Check {
    match &call.ended {
        None => Err("never ended"),
        Some((begun, ended, _)) => fail_if(
            *ended > *begun + call.planned.timeout + TICK,
            "ended after its deadline",
        ),
    }
}

/// Promise 2: a reply reaches its own call.
fn gets_its_own_reply(id: usize, call: &CallRecord) -> Check {
    match call.outcome() {
        Some(CallOutcome::Answered(answer)) => fail_if(*answer != id as u64, "got the reply of another call"),
        _ => Ok(()),
    }
}

/// Promise 3: an error tells correctly whether the method ran.
///
/// A worker that is lost just after it has refused a request of an idempotent method has perhaps
/// not acknowledged it, and another worker may run it: see [`Executed::No`]. So that error is wrong
/// only if there are `first_runs`: runs of requests that were not redelivered.
fn reports_executed_correctly(call: &CallRecord, runs: usize, first_runs: usize) -> Check {
    match call.outcome() {
        Some(CallOutcome::Answered(_)) => fail_if(runs == 0, "was answered, but never ran"),
        Some(CallOutcome::Failed { executed, .. }) => match executed {
            Executed::No => fail_if(first_runs > 0, "ran, but its error says that it did not"),
            Executed::Yes => fail_if(runs == 0, "never ran, but its error says that it did"),
            Executed::Maybe => Ok(()),
        },
        Some(CallOutcome::Confirmed | CallOutcome::Cancelled) | None => Ok(()),
    }
}

/// Promise 4: a method that is not idempotent never runs twice.
fn runs_at_most_once(call: &CallRecord, runs: usize) -> Check {
    fail_if(
        call.planned.method != Method::Read && runs > 1,
        "is not idempotent, but ran twice",
    )
}

/// Promises 5 and 7: a call of an idempotent method succeeds if its timeout is long enough and its
/// queue was not deleted. Once all faults are over, every call succeeds.
fn succeeds(scenario: &Scenario, call: &CallRecord) -> Check {
    let CallRecord { planned, .. } = call;
    let may_time_out = planned.timeout < LONG_TIMEOUT || planned.cancelled_after.is_some();
    let may_fail = match planned.at {
        None => false,
        // A request in a deleted queue is lost, and its caller is not told.
        Some(_) => planned.method != Method::Read || call.may_have_lost_its_queue(scenario),
    };
    fail_if(
        !may_time_out && !may_fail && !call.succeeded(),
        "should have succeeded",
    )
}

/// Promise 6: a call fails with `NoServer` only if its queue was deleted.
fn finds_its_queue(scenario: &Scenario, call: &CallRecord) -> Check {
    let is_no_server = matches!(
        call.outcome(),
        Some(CallOutcome::Failed {
            kind: Failure::NoServer,
            ..
        })
    );
    fail_if(
        is_no_server && !call.may_have_lost_its_queue(scenario),
        "found no queue, although there was one",
    )
}

/// Promise 8: a worker that stops loses no request. Promise 7: a worker that loses its connection
/// loses no run.
fn survives_mild_faults(scenario: &Scenario, call: &CallRecord, runs: usize) -> Check {
    let has_time = call.planned.timeout >= LONG_TIMEOUT && call.planned.cancelled_after.is_none();
    match scenario.profile {
        Profile::Storm => Ok(()),
        Profile::Calm => {
            fail_if(
                has_time && !call.succeeded(),
                "failed, although workers were only stopped",
            )?;
            fail_if(
                runs != 1 && has_time,
                "should have run once, as workers were only stopped",
            )
        }
        Profile::CutWorker => {
            fail_if(runs > 1, "ran twice on the same worker")?;
            fail_if(
                has_time && runs == 1 && !call.succeeded(),
                "ran, but its reply was lost with a connection of its worker",
            )
        }
    }
}

/// Promise 14: if a caller no longer waits, a method that can be cancelled soon stops, and does not
/// begin any more. A worker that starts later does not know of the cancellation. Only `read` can be
/// cancelled, and other faults than stopped workers may delay or lose a cancellation.
fn stops_when_abandoned<'a>(
    scenario: &Scenario,
    call: &CallRecord,
    runs: impl IntoIterator<Item = &'a Run>,
) -> Check {
    let Some((_, abandoned, CallOutcome::Cancelled | CallOutcome::Failed { .. })) = &call.ended else {
        return Ok(());
    };
    if scenario.profile != Profile::Calm || call.planned.method != Method::Read {
        return Ok(());
    }
    let known = *abandoned + longest_cancellation(scenario.latency);
    let knows = |run: &&Run| !scenario.starts_worker_between(*abandoned, run.begun);
    for run in runs.into_iter().filter(knows) {
        fail_if(run.begun > known, "began although its caller had left")?;
        fail_if(
            run.ended.is_some_and(|ended| ended > known),
            "ran to its end although its caller had left",
        )?;
    }
    Ok(())
}

impl CallRecord {
    fn outcome(&self) -> Option<&CallOutcome> {
        self.ended.as_ref().map(|(_, _, outcome)| outcome)
    }

    /// Whether the request queues were deleted before the end of the call, if it has one.
    fn may_have_lost_its_queue(&self, scenario: &Scenario) -> bool {
        match (&self.ended, scenario.queues_deleted_at()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some((_, ended, _)), Some(deleted)) => *ended >= deleted,
        }
    }

    /// Whether the call ended with the method's answer, or with the fault of a planned panic. For a
    /// one-way call, whether the broker confirmed it.
    fn succeeded(&self) -> bool {
        match self.outcome() {
            Some(CallOutcome::Answered(_) | CallOutcome::Confirmed) => true,
            Some(CallOutcome::Failed { kind, .. }) => self.planned.panics && *kind == Failure::Panicked,
            Some(CallOutcome::Cancelled) | None => false,
        }
    }
}
