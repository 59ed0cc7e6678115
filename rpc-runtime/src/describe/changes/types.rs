//! The rules of types: what one side writes, the other has to read.

use std::mem;

use serde_json::{Value, json};

use super::schemas::{self, Problem};
use super::shapes::Definitions;
use super::{Changes, Old, Place, Verdict};
use crate::describe::{ArgumentDescription, MethodDescription, ServiceDescription};

/// How many pairs of schemas are looked at in all.
const MAX_STEPS: usize = 1_000_000;

/// A type, by its name and its schema, as far as they are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Typed<'a> {
    pub(super) name: &'a str,
    schema: Option<&'a Value>,
}

impl<'a> Typed<'a> {
    pub(super) fn of_argument(argument: &'a ArgumentDescription) -> Self {
        Self {
            name: &argument.type_name,
            schema: argument.schema.as_ref(),
        }
    }
}

/// Both sides' definitions.
pub(super) struct Types<'a> {
    old: &'a Definitions,
    new: &'a Definitions,
    /// Whether both have the same.
    is_alike: bool,
    /// What the answer to a one-way method has.
    unit: Value,
    /// How many pairs of schemas may still be looked at.
    steps: usize,
    /// Whether types were taken to be alike because they are called alike.
    by_name: bool,
}

impl<'a> Types<'a> {
    pub(super) fn new(old: &'a ServiceDescription, new: &'a ServiceDescription) -> Self {
        Self {
            old: &old.definitions,
            new: &new.definitions,
            is_alike: old.definitions == new.definitions,
            unit: json!({"type": "null"}),
            steps: MAX_STEPS,
            by_name: false,
        }
    }

    /// Why the new type may not be read from what is written by the old one.
    pub(super) fn problems_to_new(&mut self, old: Typed<'_>, new: Typed<'_>) -> Vec<Problem> {
        let (writer, reader) = ((old, self.old), (new, self.new));
        self.problems(writer, reader)
    }

    /// Why the old type may not be read from what is written by the new one.
    pub(super) fn problems_to_old(&mut self, new: Typed<'_>, old: Typed<'_>) -> Vec<Problem> {
        let (writer, reader) = ((new, self.new), (old, self.old));
        self.problems(writer, reader)
    }

    /// Whether, since this was asked last, types were taken to be alike because they are called alike.
    pub(super) fn take_by_name(&mut self) -> bool {
        mem::take(&mut self.by_name)
    }

    fn problems(
        &mut self,
        (writer, writes): (Typed<'_>, &Definitions),
        (reader, reads): (Typed<'_>, &Definitions),
    ) -> Vec<Problem> {
        match (writer.schema, reader.schema) {
            // Under another name, equal schemas do not tell all: they leave out how wide the numbers are that are a map's keys.
            (Some(written), Some(read)) if self.is_alike && writer.name == reader.name && written == read => {
                Vec::new()
            }
            (Some(written), Some(read)) => {
                schemas::problems((written, writes), (read, reads), self.is_alike, &mut self.steps)
            }
            _ => {
                let problem = problem_of_names(writer.name, reader.name);
                self.by_name |= problem.is_none() && !tells_all(writer.name);
                problem.into_iter().collect()
            }
        }
    }

    /// Compares what two versions of a method answer.
    pub(super) fn compare_answers(
        &mut self,
        old: &MethodDescription,
        new: &MethodDescription,
        changes: &mut Changes,
    ) {
        self.compare_results(old, new, changes);
        match (&old.error, &new.error) {
            (Some(before), Some(now)) => {
                let before = typed(before, old.error_schema.as_ref());
                let now = typed(now, new.error_schema.as_ref());
                self.compare_both_ways(
                    (old, before),
                    (new, now),
                    &Place::Error(old.name.clone()),
                    changes,
                );
            }
            (None, Some(_)) if !old.is_oneway => changes.add(
                Verdict::BreaksCallers,
                Place::Error(old.name.clone()),
                "it has an error now: old callers await none, and cannot read it; update all callers first",
            ),
            (Some(_), None) if !new.is_oneway => changes.add(
                Verdict::BreaksWorkers,
                Place::Error(old.name.clone()),
                "it has no error now: new callers cannot read that of old workers; update all workers first",
            ),
            _ => {}
        }
    }

    fn compare_results(&mut self, old: &MethodDescription, new: &MethodDescription, changes: &mut Changes) {
        let unit = self.unit.clone();
        let answered = |method: &'_ MethodDescription| match method.is_oneway {
            true => ("()".to_owned(), Some(unit.clone())),
            false => (method.returns.clone(), method.result_schema.clone()),
        };
        let (before, now) = (answered(old), answered(new));
        let before = typed(&before.0, before.1.as_ref());
        let now = typed(&now.0, now.1.as_ref());
        self.compare_both_ways(
            (old, before),
            (new, now),
            &Place::Result(old.name.clone()),
            changes,
        );
    }

    fn compare_both_ways(
        &mut self,
        (old, before): (&MethodDescription, Typed<'_>),
        (new, now): (&MethodDescription, Typed<'_>),
        place: &Place,
        changes: &mut Changes,
    ) {
        // Who calls a one-way method awaits nothing that could not be read.
        let to_old_callers = match old.is_oneway {
            true => Vec::new(),
            false => self.problems_to_old(now, before),
        };
        let to_new_callers = match new.is_oneway {
            true => Vec::new(),
            false => self.problems_to_new(before, now),
        };
        let is_retyped = is_retyped(before, now) && old.is_oneway == new.is_oneway;
        if is_retyped && to_old_callers.is_empty() && to_new_callers.is_empty() {
            changes.add(Verdict::Safe, place.clone(), retyped(before, now));
        }
        for problem in to_old_callers {
            let message = problem.sentence("old callers", "what new workers answer");
            changes.add(Old::Callers.verdict(problem.is_certain), place.clone(), message);
        }
        for problem in to_new_callers {
            let message = problem.sentence("new callers", "what old workers answer");
            changes.add(Old::Workers.verdict(problem.is_certain), place.clone(), message);
        }
    }
}

impl Problem {
    pub(super) fn sentence(&self, reader: &str, written: &str) -> String {
        let cannot = if self.is_certain {
            "cannot"
        } else {
            "may be unable to"
        };
        format!("{reader} {cannot} read {written}: {}", self.what)
    }
}

/// Whether a type has another name; one that is not known is none.
pub(super) fn is_retyped(before: Typed<'_>, now: Typed<'_>) -> bool {
    before.name != now.name && !before.name.is_empty() && !now.name.is_empty()
}

/// What is said of a type that has another name, and travels alike.
pub(super) fn retyped(before: Typed<'_>, now: Typed<'_>) -> String {
    format!(
        "`{}` is `{}` now, which reads what the other writes",
        before.name, now.name
    )
}

fn typed<'a>(name: &'a str, schema: Option<&'a Value>) -> Typed<'a> {
    Typed { name, schema }
}

/// What types that differ in their names may do, where only the names are known.
fn problem_of_names(writer: &str, reader: &str) -> Option<Problem> {
    if writer == reader {
        return None;
    }
    let why = match (writer, reader) {
        ("", read) => format!("`{read}` is read, and what is written is not known"),
        (written, "") => format!("`{written}` is written, and what is read is not known"),
        _ => {
            let (written, read) = (on_the_wire(writer), on_the_wire(reader));
            if written == read || read == format!("Option<{written}>") {
                return None;
            }
            format!("`{writer}` is written and `{reader}` is read, and only the names are known")
        }
    };
    Some(Problem {
        is_certain: false,
        what: format!("{why}; describe both versions with `#[service(schema)]`"),
    })
}

/// Whether a type is of such alone as are the same everywhere, so that its name is all there is to know.
fn tells_all(name: &str) -> bool {
    const SAME_EVERYWHERE: &[&str] = &[
        "_", "BTreeMap", "BTreeSet", "Box", "Cow", "HashMap", "HashSet", "Option", "String", "Vec", "bool",
        "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "mut", "static", "str", "u8",
        "u16", "u32", "u64", "u128", "usize",
    ];
    let words = name.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let mut words = words.filter(|word| !word.is_empty());
    // The length of an array is a number.
    !name.is_empty()
        && words.all(|word| SAME_EVERYWHERE.contains(&word) || word.bytes().all(|b| b.is_ascii_digit()))
}

/// The name of a type that travels in the same way, without what is only lent.
fn on_the_wire(name: &str) -> String {
    let lent = name.strip_prefix('&').unwrap_or(name);
    let cow = lent
        .strip_prefix("Cow<")
        .and_then(|inner| inner.strip_suffix('>'));
    let lent = match cow.and_then(|inner| inner.split_once(", ")) {
        Some((lifetime, inner)) if lifetime.starts_with('\'') => inner,
        _ => lent,
    };
    if lent == "str" {
        return "String".to_owned();
    }
    match lent.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        // An array has its length in there.
        Some(element) if !element.contains(';') => format!("Vec<{element}>"),
        _ => lent.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_types_that_are_the_same_everywhere_tell_all() {
        for name in [
            "()",
            "&str",
            "u64",
            "Cow<'_, [u8]>",
            "[u8; 4]",
            "HashMap<String, Vec<Option<(u8, bool)>>>",
        ] {
            assert!(tells_all(name), "{name}");
        }
        for name in [
            "",
            "User",
            "Vec<User>",
            "Option<&[User]>",
            "time::Duration",
            "[u8; LENGTH]",
            "Result<()>",
        ] {
            assert!(!tells_all(name), "{name}");
        }
    }
}
