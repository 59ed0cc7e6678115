//! Compares types by their schemas, or by their names if a schema is not known.

use std::mem;

use serde_json::Value;

use super::schemas::{self, Problem};
use super::shapes::Definitions;
use crate::ServiceDescription;

/// The limit on pairs of schemas that one comparison of services looks at.
const MAX_STEPS_PER_SERVICE: usize = 1_000_000;

/// A type: its name, and its schema if it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedType<'a> {
    name: &'a str,
    schema: Option<&'a Value>,
}

impl<'a> NamedType<'a> {
    pub(super) fn new(name: &'a str, schema: Option<&'a Value>) -> Self {
        Self { name, schema }
    }
}

/// Compares types of two versions of a service.
pub(super) struct TypeComparer<'a> {
    old_definitions: &'a Definitions,
    new_definitions: &'a Definitions,
    /// Whether both versions have equal definitions.
    same_definitions: bool,
    /// How many more pairs of schemas may be looked at.
    steps: usize,
    /// Whether types, other than those of the standard library, were taken to fit because their
    /// names do.
    compared_by_name: bool,
}

impl<'a> TypeComparer<'a> {
    pub(super) fn new(old: &'a ServiceDescription, new: &'a ServiceDescription) -> Self {
        Self {
            old_definitions: &old.definitions,
            new_definitions: &new.definitions,
            same_definitions: old.definitions == new.definitions,
            steps: MAX_STEPS_PER_SERVICE,
            compared_by_name: false,
        }
    }

    /// Returns why a reader of the new type may fail to read the old type.
    pub(super) fn problems_of_new_reader(&mut self, old: NamedType<'_>, new: NamedType<'_>) -> Vec<Problem> {
        let (writer, reader) = ((old, self.old_definitions), (new, self.new_definitions));
        self.problems(writer, reader)
    }

    /// Returns why a reader of the old type may fail to read the new type.
    pub(super) fn problems_of_old_reader(&mut self, new: NamedType<'_>, old: NamedType<'_>) -> Vec<Problem> {
        let (writer, reader) = ((new, self.new_definitions), (old, self.old_definitions));
        self.problems(writer, reader)
    }

    /// Returns the definitions of the old version and of the new one.
    pub(super) fn definitions(&self) -> (&'a Definitions, &'a Definitions) {
        (self.old_definitions, self.new_definitions)
    }

    /// Returns `compared_by_name` since the last call of this function.
    pub(super) fn take_compared_by_name(&mut self) -> bool {
        mem::take(&mut self.compared_by_name)
    }

    /// Returns why the reader may fail to read what the writer writes.
    fn problems(
        &mut self,
        (writer, writer_definitions): (NamedType<'_>, &Definitions),
        (reader, reader_definitions): (NamedType<'_>, &Definitions),
    ) -> Vec<Problem> {
        match (writer.schema, reader.schema) {
            // Types with different names and equal schemas may still differ: a schema does not show
            // the width of integers that are keys of a map.
            (Some(written), Some(read))
                if self.same_definitions && writer.name == reader.name && written == read =>
            {
                Vec::new()
            }
            (Some(written), Some(read)) => schemas::problems(
                (written, writer_definitions),
                (read, reader_definitions),
                self.same_definitions,
                &mut self.steps,
            ),
            _ => {
                let problem = problem_of_names(writer.name, reader.name);
                self.compared_by_name |= problem.is_none() && !is_same_everywhere(writer.name);
                problem.into_iter().collect()
            }
        }
    }
}

impl Problem {
    /// Returns a sentence of the form "new workers cannot read what old callers send: why".
    pub(super) fn sentence(&self, reader: &str, written: &str) -> String {
        let cannot = if self.is_certain {
            "cannot"
        } else {
            "may be unable to"
        };
        format!("{reader} {cannot} read {written}: {}", self.what)
    }
}

/// Whether a type has another name now. An unknown name does not count.
pub(super) fn is_renamed(before: NamedType<'_>, now: NamedType<'_>) -> bool {
    before.name != now.name && !before.name.is_empty() && !now.name.is_empty()
}

/// Returns the message about a type that has another name and the same form on the wire.
pub(super) fn rename_message(before: NamedType<'_>, now: NamedType<'_>) -> String {
    format!(
        "`{}` is `{}` now, and each reads what the other writes",
        before.name, now.name
    )
}

/// Compares two types by their names, because at least one has no schema. Returns `None` if the
/// types fit, as far as the names tell.
fn problem_of_names(writer: &str, reader: &str) -> Option<Problem> {
    if writer == reader {
        return None;
    }
    let why = match (writer, reader) {
        ("", read) => format!("`{read}` is read, and the written type is not known"),
        (written, "") => format!("`{written}` is written, and the type that is read is not known"),
        _ => {
            let (written, read) = (on_the_wire(writer), on_the_wire(reader));
            if written == read || read == format!("Option<{written}>") {
                return None;
            }
            format!("`{writer}` is written and `{reader}` is read, and only the names can be compared")
        }
    };
    Some(Problem {
        is_certain: false,
        what: format!("{why}; describe both versions with `#[service(schema)]`"),
    })
}

/// Whether the name of a type consists only of types of the standard library that are the same in
/// all versions of a service.
fn is_same_everywhere(name: &str) -> bool {
    // `_`, `mut` and `static` occur in references and lifetimes.
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

/// Returns the owned type that has the same form on the wire: `String` for `&str`.
///
/// Removes only the outermost reference or `Cow`, or the `Cow` in an `Option`: the attribute
/// `#[service]` allows references nowhere else.
pub(super) fn on_the_wire(name: &str) -> String {
    if let Some(inner) = name
        .strip_prefix("Option<")
        .and_then(|inner| inner.strip_suffix('>'))
    {
        return format!("Option<{}>", on_the_wire(inner));
    }
    let inner = referenced(name).or_else(|| in_cow(name)).unwrap_or(name);
    if inner == "str" {
        return "String".to_owned();
    }
    match element_of_slice(inner) {
        Some(element) => format!("Vec<{element}>"),
        None => inner.to_owned(),
    }
}

/// Returns the type to which a reference refers: `str` for `&'_ str`.
fn referenced(name: &str) -> Option<&str> {
    let inner = name.strip_prefix('&')?;
    match inner.split_once(' ') {
        Some((lifetime, inner)) if lifetime.starts_with('\'') => Some(inner),
        _ => Some(inner),
    }
}

/// Returns what a `Cow` holds: `str` for `std::borrow::Cow<'_, str>`.
fn in_cow(name: &str) -> Option<&str> {
    let (path, arguments) = name.split_once('<')?;
    let arguments = arguments.strip_suffix('>')?;
    let inner = match arguments.split_once(", ") {
        Some((lifetime, inner)) if lifetime.starts_with('\'') => inner,
        _ => arguments,
    };
    (path == "Cow" || path.ends_with("::Cow")).then_some(inner)
}

/// Returns the type of a slice's elements. `None` if the type is no slice but, for example, an
/// array such as `[u8; 4]`.
fn element_of_slice(name: &str) -> Option<&str> {
    let element = name.strip_prefix('[')?.strip_suffix(']')?;
    let mut depth = 0_usize;
    for character in element.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    Some(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_of_the_standard_library_are_the_same_everywhere() {
        for name in [
            "()",
            "&str",
            "u64",
            "Cow<'_, [u8]>",
            "[u8; 4]",
            "HashMap<String, Vec<Option<(u8, bool)>>>",
        ] {
            assert!(is_same_everywhere(name), "{name}");
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
            assert!(!is_same_everywhere(name), "{name}");
        }
    }
}
