//! The rules of arguments: they are read by name, and what a worker does not know is skipped.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{self, Typed, Types};
use super::{Changes, Old, Place, Verdict};
use crate::describe::{ArgumentDescription, MethodDescription};

/// Compares the arguments of two versions of a method.
pub(super) fn compare(
    old: &MethodDescription,
    new: &MethodDescription,
    types: &mut Types<'_>,
    changes: &mut Changes,
) {
    let (olds, news) = (first_of_each_name(old), first_of_each_name(new));
    let pairs = Pairs::new(&olds, &news);
    let mut common = BTreeSet::new();
    // Old callers write, new workers read.
    for &argument in &news {
        match pairs.written_by_old.get(argument.name.as_str()) {
            Some(&written) => {
                common.insert(written.name.as_str());
                compare_argument(old, (written, argument), types, changes);
            }
            None if argument.is_optional => changes.add(
                Verdict::Safe,
                place(new, argument),
                "it is new: new workers do without it, and old workers skip it",
            ),
            None => {
                let renamed = pairs.renamed.map(|name| {
                    format!("; if it was called {name} before, with `#[serde(alias = {name:?})]`")
                });
                let mend = format!(
                    "give it `#[serde(default)]`, or make it an `Option`{}",
                    renamed.unwrap_or_default()
                );
                let message =
                    format!("old callers do not send it, and new workers answer `bad_request`; {mend}");
                changes.add(Verdict::BreaksCallers, place(new, argument), message);
            }
        }
    }
    // New callers write, old workers read.
    for &argument in &olds {
        let read_from = pairs.written_by_new.get(argument.name.as_str());
        if !argument.is_optional && read_from.is_none() {
            changes.add(
                Verdict::BreaksWorkers,
                place(old, argument),
                "new callers do not send it under this name, and old workers answer `bad_request`; update all workers first, or keep it",
            );
        } else if read_from.is_none() && !common.contains(argument.name.as_str()) {
            changes.add(
                Verdict::Safe,
                place(old, argument),
                "it is gone: new workers skip it, and old workers do without it",
            );
        }
    }
    let method = || Place::Method(old.name.clone());
    compare_positions((&olds, &news), &pairs, method, changes);
    if old.is_default && olds.len() == 1 && news.len() > 1 {
        changes.add(
            Verdict::MayBreakCallers,
            method(),
            "it takes more than one argument: callers that send the one as `text/plain`, as a tutorial's do, get `bad_request`",
        );
    }
}

/// Which argument is read from which.
struct Pairs<'a> {
    /// What a new worker reads from what an old caller writes, by the name of the new argument.
    written_by_old: BTreeMap<&'a str, &'a ArgumentDescription>,
    /// What an old worker reads from what a new caller writes, by the name of the old argument.
    written_by_new: BTreeMap<&'a str, &'a ArgumentDescription>,
    /// The one old argument that is gone, where there is one.
    renamed: Option<&'a str>,
}

impl<'a> Pairs<'a> {
    fn new(old: &Arguments<'a>, new: &Arguments<'a>) -> Self {
        let written_by_old = read_from(new, old);
        let read: BTreeSet<_> = written_by_old
            .values()
            .map(|argument| argument.name.as_str())
            .collect();
        let names = old.iter().map(|argument| argument.name.as_str());
        let mut gone = names.filter(|name| !read.contains(name));
        Self {
            renamed: gone.next().filter(|_| gone.next().is_none()),
            written_by_new: read_from(old, new),
            written_by_old,
        }
    }
}

/// For each argument that is read, that which is written under its name, or under an alias.
fn read_from<'a>(
    read: &Arguments<'a>,
    written: &Arguments<'a>,
) -> BTreeMap<&'a str, &'a ArgumentDescription> {
    let written: BTreeMap<_, _> = written
        .iter()
        .map(|argument| (argument.name.as_str(), *argument))
        .collect();
    let source = |argument: &&'a ArgumentDescription| {
        let mut names = std::iter::once(&argument.name).chain(&argument.aliases);
        let source = names.find_map(|name| written.get(name.as_str()))?;
        Some((argument.name.as_str(), *source))
    };
    read.iter().filter_map(source).collect()
}

/// The arguments of a method. Two of one name are none that a method has: the first counts.
type Arguments<'a> = Vec<&'a ArgumentDescription>;

fn first_of_each_name(method: &MethodDescription) -> Arguments<'_> {
    let mut names = BTreeSet::new();
    let arguments = method.arguments.iter();
    arguments
        .filter(|argument| names.insert(argument.name.as_str()))
        .collect()
}

fn place(method: &MethodDescription, argument: &ArgumentDescription) -> Place {
    Place::Argument {
        method: method.name.clone(),
        argument: argument.name.clone(),
    }
}

fn compare_argument(
    method: &MethodDescription,
    (old, new): (&ArgumentDescription, &ArgumentDescription),
    types: &mut Types<'_>,
    changes: &mut Changes,
) {
    let place = place(method, new);
    if old.name != new.name {
        let message = format!("it was called {}, under which new workers read it too", old.name);
        changes.add(Verdict::Safe, place.clone(), message);
    }
    if old.is_optional && !new.is_optional {
        changes.add(
            Verdict::MayBreakCallers,
            place.clone(),
            "it has to be sent now: old callers that leave it out get `bad_request`",
        );
    }
    if new.is_optional && !old.is_optional {
        changes.add(
            Verdict::MayBreakWorkers,
            place.clone(),
            "it may be left out now: old workers answer `bad_request` to new callers that do",
        );
    }
    let (before, now) = (Typed::of_argument(old), Typed::of_argument(new));
    let to_new_workers = types.problems_to_new(before, now);
    let to_old_workers = types.problems_to_old(now, before);
    if to_new_workers.is_empty() && to_old_workers.is_empty() && types::is_retyped(before, now) {
        changes.add(Verdict::Safe, place.clone(), types::retyped(before, now));
    }
    for problem in to_new_workers {
        let message = problem.sentence("new workers", "what old callers send");
        changes.add(Old::Callers.verdict(problem.is_certain), place.clone(), message);
    }
    for problem in to_old_workers {
        let message = problem.sentence("old workers", "what new callers send");
        changes.add(Old::Workers.verdict(problem.is_certain), place.clone(), message);
    }
}

/// Callers that do not use this crate may send an array by position.
fn compare_positions(
    (old, new): (&Arguments<'_>, &Arguments<'_>),
    pairs: &Pairs<'_>,
    place: impl Fn() -> Place,
    changes: &mut Changes,
) {
    let is_moved = |(before, now): (&&ArgumentDescription, &&ArgumentDescription)| {
        pairs
            .written_by_old
            .get(now.name.as_str())
            .is_none_or(|written| written.name != before.name)
    };
    if old.iter().zip(new).any(is_moved) {
        changes.add(
            Verdict::MayBreakCallers,
            place(),
            "arguments have other positions: callers that send an array, and not a map by name, are misunderstood; add arguments at the end",
        );
    }
}
