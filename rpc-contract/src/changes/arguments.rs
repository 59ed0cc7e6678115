//! Compares what callers send: arguments, which workers read by name, skipping unknown ones, and
//! items.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Changes, OldPeers, Place, Verdict};
use super::types::{self, NamedType, TypeComparer};
use crate::{ArgumentDescription, MethodDescription};

/// Compares the arguments of two versions of a method.
pub(super) fn compare(
    old: &MethodDescription,
    new: &MethodDescription,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    let (old_arguments, new_arguments) = (distinct_arguments(old), distinct_arguments(new));
    let matches = Matches::new(&old_arguments, &new_arguments);
    for &argument in &new_arguments {
        let counterparts = matches.counterparts(argument);
        if counterparts.sent.is_none() {
            add_new_argument(new, argument, &matches, changes);
        }
        compare_argument(old, argument, counterparts, types, changes);
    }
    for &argument in &old_arguments {
        if !matches.new_of_old.contains_key(argument.name.as_str()) {
            add_missing_argument(old, argument, &matches, changes);
        }
    }
    for (argument, read_as) in repeated(&old_arguments, &matches.new_by_accepted_name) {
        let message = format!(
            "new workers read it as {}, which old callers send too, and answer `bad_request` to both; remove the alias",
            read_as.name
        );
        changes.add(Verdict::BreaksCallers, argument_place(old, argument), message);
    }
    for (argument, read_as) in repeated(&new_arguments, &matches.old_by_accepted_name) {
        let message = format!(
            "old workers read it as {}, which new callers send too, and answer `bad_request` to both; give it another name",
            read_as.name
        );
        changes.add(Verdict::BreaksWorkers, argument_place(new, argument), message);
    }
    if have_moved(&old_arguments, &new_arguments, &matches) {
        changes.add(
            Verdict::MayBreakCallers,
            Place::Method(old.name.clone()),
            "arguments have moved: callers that send an array instead of a map are misunderstood; add arguments at the end",
        );
    }
}

/// Adds the change for a new argument that old callers do not send.
fn add_new_argument(
    method: &MethodDescription,
    argument: &ArgumentDescription,
    matches: &Matches<'_>,
    changes: &mut Changes,
) {
    if argument.is_optional {
        let by_old_workers = match matches.old_by_accepted_name.get(argument.name.as_str()) {
            Some(old) => format!("read it as {}", old.name),
            None => "skip it".to_owned(),
        };
        changes.add(
            Verdict::Safe,
            argument_place(method, argument),
            format!("it is new: new workers do without it, and old workers {by_old_workers}"),
        );
        return;
    }
    let alias = matches.only_removed.map_or(String::new(), |name| {
        format!("; if it was called {name} before, add `#[serde(alias = {name:?})]`")
    });
    let message = format!(
        "old callers do not send it, and new workers answer `bad_request`; give it `#[serde(default)]`, or make it an `Option`{alias}"
    );
    changes.add(Verdict::BreaksCallers, argument_place(method, argument), message);
}

/// Adds the change for an old argument that new callers do not send to old workers.
fn add_missing_argument(
    method: &MethodDescription,
    argument: &ArgumentDescription,
    matches: &Matches<'_>,
    changes: &mut Changes,
) {
    let place = argument_place(method, argument);
    if !argument.is_optional {
        changes.add(
            Verdict::BreaksWorkers,
            place,
            "new callers do not send it under this name, and old workers answer `bad_request`; update all workers first, or keep it",
        );
        return;
    }
    // If new workers read it under another name, that has been reported for the new argument.
    if !matches.new_by_accepted_name.contains_key(argument.name.as_str()) {
        changes.add(
            Verdict::Safe,
            place,
            "it is gone: new workers skip it, and old workers do without it",
        );
    }
}

/// Which arguments of one version are read as which of the other, by name or alias.
struct Matches<'a> {
    /// The old argument that new workers read as a new argument, by the name of the new one.
    old_of_new: BTreeMap<&'a str, &'a ArgumentDescription>,
    /// The new argument that old workers read as an old argument, by the name of the old one.
    new_of_old: BTreeMap<&'a str, &'a ArgumentDescription>,
    /// The old arguments, by the names and aliases that old workers accept for them.
    old_by_accepted_name: ByAcceptedName<'a>,
    /// The new arguments, by the names and aliases that new workers accept for them.
    new_by_accepted_name: ByAcceptedName<'a>,
    /// The name of the old argument that new workers do not read, if there is exactly one.
    only_removed: Option<&'a str>,
}

impl<'a> Matches<'a> {
    fn new(old: &Arguments<'a>, new: &Arguments<'a>) -> Self {
        let new_by_accepted_name = by_accepted_name(new);
        let names = old.iter().map(|argument| argument.name.as_str());
        let mut removed = names.filter(|name| !new_by_accepted_name.contains_key(name));
        Self {
            only_removed: removed.next().filter(|_| removed.next().is_none()),
            old_of_new: find_written(new, old),
            new_of_old: find_written(old, new),
            old_by_accepted_name: by_accepted_name(old),
            new_by_accepted_name,
        }
    }

    /// Returns the old arguments that correspond to a new one.
    fn counterparts(&self, argument: &ArgumentDescription) -> Counterparts<'a> {
        let name = argument.name.as_str();
        Counterparts {
            sent: self.old_of_new.get(name).copied(),
            read: self.old_by_accepted_name.get(name).copied(),
        }
    }
}

/// The old arguments that correspond to a new one. They can differ only if the old version has none
/// with its name.
#[derive(Clone, Copy)]
struct Counterparts<'a> {
    /// The one that new workers read as the new one if old callers send it.
    sent: Option<&'a ArgumentDescription>,
    /// The one as which old workers read the new one if new callers send it.
    read: Option<&'a ArgumentDescription>,
}

/// Finds, by the name of each argument of `read`, the argument of `written` that is read as it: the
/// one with its name, or else with one of its aliases. Leaves out arguments that are not written.
fn find_written<'a>(
    read: &Arguments<'a>,
    written: &Arguments<'a>,
) -> BTreeMap<&'a str, &'a ArgumentDescription> {
    let written: BTreeMap<_, _> = written
        .iter()
        .map(|argument| (argument.name.as_str(), *argument))
        .collect();
    let find = |argument: &&'a ArgumentDescription| {
        let mut accepted = std::iter::once(&argument.name).chain(&argument.aliases);
        let found = accepted.find_map(|name| written.get(name.as_str()))?;
        Some((argument.name.as_str(), *found))
    };
    read.iter().filter_map(find).collect()
}

/// Arguments by the names and aliases that workers accept for them.
type ByAcceptedName<'a> = BTreeMap<&'a str, &'a ArgumentDescription>;

/// Returns the arguments by name and alias. If one has the alias that is the name of another, the
/// name counts.
fn by_accepted_name<'a>(arguments: &Arguments<'a>) -> ByAcceptedName<'a> {
    let names = arguments
        .iter()
        .map(|&argument| (argument.name.as_str(), argument));
    let aliases = arguments.iter().flat_map(|&argument| {
        let aliases = argument.aliases.iter();
        aliases.map(move |alias| (alias.as_str(), argument))
    });
    // The last one inserted stays.
    aliases.chain(names).collect()
}

/// Returns the argument as which workers of this version read a value with this name.
pub(super) fn find_accepting<'a>(
    method: &'a MethodDescription,
    name: &str,
) -> Option<&'a ArgumentDescription> {
    by_accepted_name(&distinct_arguments(method)).get(name).copied()
}

/// Returns the written arguments that are read as the same one as an earlier argument, each with
/// the one as which it is read. Serde refuses a field with two values.
fn repeated<'a>(
    written: &Arguments<'a>,
    read: &ByAcceptedName<'a>,
) -> Vec<(&'a ArgumentDescription, &'a ArgumentDescription)> {
    let mut names = BTreeSet::new();
    let pairs = written
        .iter()
        .filter_map(|&argument| Some((argument, *read.get(argument.name.as_str())?)));
    pairs
        .filter(|(_, read_as)| !names.insert(read_as.name.as_str()))
        .collect()
}

type Arguments<'a> = Vec<&'a ArgumentDescription>;

/// Returns the first argument of each name. A description that no trait made may have two.
pub(super) fn distinct_arguments(method: &MethodDescription) -> Arguments<'_> {
    let mut names = BTreeSet::new();
    let arguments = method.arguments.iter();
    arguments
        .filter(|argument| names.insert(argument.name.as_str()))
        .collect()
}

pub(super) fn argument_place(method: &MethodDescription, argument: &ArgumentDescription) -> Place {
    Place::Argument {
        method: method.name.clone(),
        argument: argument.name.clone(),
    }
}

/// Compares an argument with those of the old version that correspond to it.
fn compare_argument(
    method: &MethodDescription,
    new: &ArgumentDescription,
    old: Counterparts<'_>,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    let place = argument_place(method, new);
    if let Some(sent) = old.sent.filter(|sent| sent.name != new.name) {
        let message = format!(
            "it was called {}, and new workers still accept that name",
            sent.name
        );
        changes.add(Verdict::Safe, place.clone(), message);
    }
    if old.sent.is_some_and(|sent| sent.is_optional) && !new.is_optional {
        changes.add(
            Verdict::MayBreakCallers,
            place.clone(),
            "it is required now: old callers that leave it out get `bad_request`",
        );
    }
    if new.is_optional && old.read.is_some_and(|read| !read.is_optional) {
        changes.add(
            Verdict::MayBreakWorkers,
            place.clone(),
            "it is optional now: new callers that leave it out get `bad_request` from old workers",
        );
    }
    let before = OldTypes {
        sent: old.sent.map(type_of),
        read: old.read.map(type_of),
    };
    compare_types(before, type_of(new), &place, types, changes);
}

fn type_of(argument: &ArgumentDescription) -> NamedType<'_> {
    NamedType::new(&argument.type_name, argument.schema.as_ref())
}

/// Compares the items that callers send while a method runs, if they do so in both versions.
pub(super) fn compare_incoming(
    old: &MethodDescription,
    new: &MethodDescription,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    if let (Some(before), Some(now)) = (&old.incoming, &new.incoming) {
        let before = NamedType::new(before, old.incoming_schema.as_ref());
        let now = NamedType::new(now, new.incoming_schema.as_ref());
        let before = OldTypes {
            sent: Some(before),
            read: Some(before),
        };
        compare_types(before, now, &Place::Incoming(new.name.clone()), types, changes);
    }
}

/// The types of the old version to compare with one of the new version.
struct OldTypes<'a> {
    /// What old callers send.
    sent: Option<NamedType<'a>>,
    /// What old workers read.
    read: Option<NamedType<'a>>,
}

/// Checks that new workers read what old callers send, and old workers what new callers send.
fn compare_types(
    before: OldTypes<'_>,
    now: NamedType<'_>,
    place: &Place,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    let of_new_workers = before
        .sent
        .map_or_else(Vec::new, |sent| types.problems_of_new_reader(sent, now));
    let of_old_workers = before
        .read
        .map_or_else(Vec::new, |read| types.problems_of_old_reader(now, read));
    if let (Some(sent), Some(_)) = (before.sent, before.read)
        && of_new_workers.is_empty()
        && of_old_workers.is_empty()
        && types::is_renamed(sent, now)
    {
        changes.add(Verdict::Safe, place.clone(), types::rename_message(sent, now));
    }
    for problem in of_new_workers {
        let message = problem.sentence("new workers", "what old callers send");
        changes.add_break(OldPeers::Callers, problem.is_certain, place, message);
    }
    for problem in of_old_workers {
        let message = problem.sentence("old workers", "what new callers send");
        changes.add_break(OldPeers::Workers, problem.is_certain, place, message);
    }
}

/// Whether a position that both versions have is that of another argument now. Callers that do not
/// use rpc-runtime may send an array. Arguments that are added or removed at the end move no
/// others.
fn have_moved(old: &Arguments<'_>, new: &Arguments<'_>, matches: &Matches<'_>) -> bool {
    old.iter().zip(new).any(|(before, now)| {
        let written = matches.old_of_new.get(now.name.as_str());
        written.is_none_or(|written| written.name != before.name)
    })
}
