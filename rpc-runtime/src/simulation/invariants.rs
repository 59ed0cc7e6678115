//! The promises, held against what happened.

use std::time::Duration;

use super::history::{CallRecord, Failure, History, Outcome};
use super::plan::{Method, PATIENT, Plan, Profile};
use crate::protocol::Executed;

/// A timer may be a tick late.
const TICK: Duration = Duration::from_millis(2);

/// Which promises were broken, in words.
pub(super) fn violations(plan: &Plan, history: &History) -> Vec<String> {
    let mut broken = history.left_overs.clone();
    for (id, call) in history.calls.iter().enumerate() {
        let runs = history.runs_of(id).count();
        let promises = [
            ends_in_time(call),
            is_answered_by_its_own_run(id, call),
            tells_the_truth(call, runs),
            runs_at_most_once(call, runs),
            ends_well(plan, call),
            is_left_alone(plan, call, runs),
            finds_its_server(plan, call),
        ];
        broken.extend(promises.into_iter().filter_map(|kept| {
            let reason = kept.err()?;
            Some(format!("{} {reason}", history.story(id)))
        }));
    }
    broken
}

type Kept = Result<(), &'static str>;

fn unless(is_broken: bool, reason: &'static str) -> Kept {
    match is_broken {
        true => Err(reason),
        false => Ok(()),
    }
}

/// Promise 1: every call ends, by its deadline.
fn ends_in_time(call: &CallRecord) -> Kept {
    match &call.ended {
        None => Err("never ended"),
        Some((begun, ended, _)) => unless(
            *ended > *begun + call.plan.limit + TICK,
            "ended after its deadline",
        ),
    }
}

/// Promise 2: a reply reaches its own call.
fn is_answered_by_its_own_run(id: usize, call: &CallRecord) -> Kept {
    match call.outcome() {
        Some(Outcome::Answered(answer)) => unless(*answer != id as u64, "got the reply of another"),
        _ => Ok(()),
    }
}

/// Promise 3: who says that the method ran, or did not, is right.
fn tells_the_truth(call: &CallRecord, runs: usize) -> Kept {
    match call.outcome() {
        Some(Outcome::Answered(_)) => unless(runs == 0, "was answered and never ran"),
        Some(Outcome::Failed { executed, .. }) => match executed {
            Executed::No => unless(runs > 0, "ran, and its error says that it did not"),
            Executed::Yes => unless(runs == 0, "never ran, and its error says that it did"),
            Executed::Maybe => Ok(()),
        },
        Some(Outcome::Taken | Outcome::GivenUp) | None => Ok(()),
    }
}

/// Promise 4: what is not idempotent never runs twice.
fn runs_at_most_once(call: &CallRecord, runs: usize) -> Kept {
    unless(
        call.plan.method != Method::Read && runs > 1,
        "is not idempotent and ran again",
    )
}

/// Promises 5 and 7: what is idempotent ends well where it has the time; once all has been mended, everything does.
fn ends_well(plan: &Plan, call: &CallRecord) -> Kept {
    let CallRecord { plan: planned, .. } = call;
    let is_over = planned.limit < PATIENT || planned.given_up_after.is_some();
    let may_fail = match planned.at {
        None => false,
        // A request in a queue that is deleted is lost without anybody being told.
        Some(_) => planned.method != Method::Read || call.was_made_when_requests_were_deleted(plan),
    };
    unless(!is_over && !may_fail && !call.is_well(), "should have ended well")
}

/// Promise 6: there is no server where there is no queue, and only there.
fn finds_its_server(plan: &Plan, call: &CallRecord) -> Kept {
    let is_missed = matches!(
        call.outcome(),
        Some(Outcome::Failed {
            kind: Failure::NoServer,
            ..
        })
    );
    unless(
        is_missed && !call.was_made_when_requests_were_deleted(plan),
        "found no queue, and there was one",
    )
}

/// Promise 8: a worker that stops loses nothing. Promise 7: one that loses its connection loses no run.
fn is_left_alone(plan: &Plan, call: &CallRecord, runs: usize) -> Kept {
    let has_time = call.plan.limit >= PATIENT && call.plan.given_up_after.is_none();
    match plan.profile {
        Profile::Storm => Ok(()),
        Profile::Calm => {
            unless(
                has_time && !call.is_well(),
                "failed, although workers were only stopped",
            )?;
            unless(
                runs != 1 && has_time,
                "should have run once, as workers were only stopped",
            )
        }
        Profile::CutWorker => {
            unless(
                runs > 1,
                "ran again at the worker that it runs at, or was answered by",
            )?;
            unless(
                has_time && runs == 1 && !call.is_well(),
                "ran, and its reply was lost with a connection of its worker",
            )
        }
    }
}

impl CallRecord {
    fn outcome(&self) -> Option<&Outcome> {
        self.ended.as_ref().map(|(_, _, outcome)| outcome)
    }

    fn was_made_when_requests_were_deleted(&self, plan: &Plan) -> bool {
        match (&self.ended, plan.requests_deleted()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some((_, ended, _)), Some(deleted)) => *ended >= deleted,
        }
    }

    /// It has what the method had to say.
    fn is_well(&self) -> bool {
        match self.outcome() {
            Some(Outcome::Answered(_) | Outcome::Taken) => true,
            Some(Outcome::Failed { kind, .. }) => self.plan.panics && *kind == Failure::Panicked,
            Some(Outcome::GivenUp) | None => false,
        }
    }
}
