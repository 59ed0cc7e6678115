//! Compares what methods answer: workers write results and errors, and callers read them.

use serde_json::{Value, json};

use super::change::{Changes, OldPeers, Place, Verdict};
use super::types::{self, NamedType, TypeComparer};
use crate::MethodDescription;

/// Compares the results and errors of two versions of a method. A caller of a one-way method reads
/// neither.
pub(super) fn compare(
    old: &MethodDescription,
    new: &MethodDescription,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    compare_results(old, new, types, changes);
    let place = Place::Error(old.name.clone());
    match (&old.error, &new.error) {
        (Some(before), Some(now)) => {
            let before = NamedType::new(before, old.error_schema.as_ref());
            let now = NamedType::new(now, new.error_schema.as_ref());
            compare_both_ways((old, before), (new, now), &place, types, changes);
        }
        (None, Some(_)) if !old.is_oneway => changes.add(
            Verdict::BreaksCallers,
            place,
            "it can fail now: old callers expect no error and cannot read it; update all callers first",
        ),
        (Some(_), None) if !new.is_oneway => changes.add(
            Verdict::BreaksWorkers,
            place,
            "it cannot fail any more: new callers cannot read the error of old workers; update all workers first",
        ),
        _ => {}
    }
}

fn compare_results(
    old: &MethodDescription,
    new: &MethodDescription,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    let unit = json!({"type": "null"});
    let place = Place::Result(old.name.clone());
    let (before, now) = (result(old, &unit), result(new, &unit));
    compare_both_ways((old, before), (new, now), &place, types, changes);
}

/// Returns the type of what a method answers if it succeeds. A caller that does not know that the
/// method is one-way gets an empty message, which is read as `()`.
fn result<'a>(method: &'a MethodDescription, unit: &'a Value) -> NamedType<'a> {
    if method.is_oneway {
        NamedType::new("()", Some(unit))
    } else {
        NamedType::new(&method.returns, method.result_schema.as_ref())
    }
}

/// Compares what new workers answer old callers, and what old workers answer new callers. Each
/// version of a method comes with the type of this answer.
fn compare_both_ways(
    (old, before): (&MethodDescription, NamedType<'_>),
    (new, now): (&MethodDescription, NamedType<'_>),
    place: &Place,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    // A caller of a one-way method reads no answer.
    let of_old_callers = if old.is_oneway {
        Vec::new()
    } else {
        types.problems_of_old_reader(now, before)
    };
    let of_new_callers = if new.is_oneway {
        Vec::new()
    } else {
        types.problems_of_new_reader(before, now)
    };
    // A method that becomes one-way, or no longer is, has another type, not another name of it.
    let is_renamed = types::is_renamed(before, now) && old.is_oneway == new.is_oneway;
    if is_renamed && of_old_callers.is_empty() && of_new_callers.is_empty() {
        changes.add(Verdict::Safe, place.clone(), types::rename_message(before, now));
    }
    for problem in of_old_callers {
        let message = problem.sentence("old callers", "what new workers answer");
        changes.add_break(OldPeers::Callers, problem.is_certain, place, message);
    }
    for problem in of_new_callers {
        let message = problem.sentence("new callers", "what old workers answer");
        changes.add_break(OldPeers::Workers, problem.is_certain, place, message);
    }
}
