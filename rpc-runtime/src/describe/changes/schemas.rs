//! Whether what one JSON Schema lets be written, another lets be read.
//!
//! Knows the part of draft 7 that Rust types have. Of all else it says that it does not know, unless both sides say the same.
//! A schema may come from a peer: the work is bounded, and so is the depth.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::numbers;
use super::shapes::{
    Definitions, alternatives, is_anything, is_known, kind, properties, required, resolve, shown, type_name,
    type_of,
};

/// Something that may be written and not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Whether that is known; otherwise it cannot be excluded.
    pub(super) is_certain: bool,
    pub(super) what: String,
}

/// How many pairs of schemas are looked at for one type.
const MAX_STEPS: usize = 10_000;

/// How deep schemas within schemas are looked at.
const MAX_DEPTH: usize = 64;

const TOO_LARGE: &str = "the types are too large to be compared";

/// How many problems are told; more would not be read.
const MAX_PROBLEMS: usize = 10;

/// What may be written by this schema, with its definitions, and not be read by that: the worst that there is. `is_alike` says that both
/// have the same definitions. Looks at this many pairs of schemas at most, and takes away how many it has looked at.
pub(super) fn problems(
    writer: (&Value, &Definitions),
    reader: (&Value, &Definitions),
    is_alike: bool,
    steps: &mut usize,
) -> Vec<Problem> {
    let allowed = MAX_STEPS.min(*steps);
    let mut comparison = Comparison {
        writes: writer.1,
        reads: reader.1,
        is_alike,
        steps: allowed,
        under_way: Vec::new(),
    };
    let mut problems = comparison.check(writer.0, reader.0, "");
    *steps -= allowed - comparison.steps;
    problems.sort_by_key(|problem| !problem.is_certain);
    problems.truncate(MAX_PROBLEMS);
    problems
}

struct Comparison<'a> {
    writes: &'a Definitions,
    reads: &'a Definitions,
    /// Whether both sides have the same definitions, and so mean the same by the same schema.
    is_alike: bool,
    /// How many pairs may still be looked at.
    steps: usize,
    /// The pairs that are being compared, with their names if they are definitions: recursive types come back to these.
    under_way: Vec<Option<(String, String)>>,
}

impl Comparison<'_> {
    fn check(&mut self, writer: &Value, reader: &Value, path: &str) -> Vec<Problem> {
        if self.steps == 0 || self.under_way.len() >= MAX_DEPTH {
            return unsure(path, TOO_LARGE);
        }
        self.steps -= 1;
        let (Some((writer, writes)), Some((reader, reads))) =
            (resolve(writer, self.writes), resolve(reader, self.reads))
        else {
            return unsure(path, "the definition of a type is missing");
        };
        let pair = writes.zip(reads);
        if pair.is_some() && self.under_way.contains(&pair) {
            return Vec::new();
        }
        self.under_way.push(pair);
        let problems = self.check_resolved(writer, reader, path);
        self.under_way.pop();
        problems
    }

    fn check_resolved(&mut self, writer: &Value, reader: &Value, path: &str) -> Vec<Problem> {
        if is_anything(reader) || *writer == Value::Bool(false) {
            return Vec::new();
        }
        if *reader == Value::Bool(false) {
            return certain(path, "nothing is read");
        }
        if is_anything(writer) {
            return unsure(
                path,
                format!("anything may be written, and {} is read", shown(reader)),
            );
        }
        let (Value::Object(writes), Value::Object(reads)) = (writer, reader) else {
            return unsure(path, "a schema is none");
        };
        let (writers, readers) = (alternatives(writes, self.writes), alternatives(reads, self.reads));
        if writers.is_none() && readers.is_none() {
            return self.check_single(writes, reads, path);
        }
        let writers = writers.unwrap_or_else(|| vec![writer.clone()]);
        let readers = readers.unwrap_or_else(|| vec![reader.clone()]);
        let writers = writers.iter();
        writers
            .flat_map(|writer| self.check_alternative(writer, &readers, path))
            .collect()
    }

    /// Whether one of the readers reads what is written; if not, why that does not which may, or else that which is meant.
    fn check_alternative(&mut self, writer: &Value, readers: &[Value], path: &str) -> Vec<Problem> {
        let kind = kind(writer, self.writes);
        let mut of_its_kind = None;
        let mut perhaps = None;
        for reader in readers {
            if self.steps == 0 {
                return unsure(path, TOO_LARGE);
            }
            let problems = self.check(writer, reader, path);
            if problems.is_empty() {
                return problems;
            }
            if problems.iter().all(|problem| !problem.is_certain) {
                perhaps.get_or_insert(problems);
            } else if of_its_kind.is_none() && self::kind(reader, self.reads) == kind {
                of_its_kind = Some(problems);
            }
        }
        perhaps.or(of_its_kind).unwrap_or_else(|| {
            let resolved = resolve(writer, self.writes).map_or(writer, |(schema, _)| schema);
            certain(path, format!("{} is written, and is not read", shown(resolved)))
        })
    }

    /// Compares two schemas of which each is of one type.
    fn check_single(
        &mut self,
        writes: &Map<String, Value>,
        reads: &Map<String, Value>,
        path: &str,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (keyword, value) in reads {
            let is_same = writes.get(keyword) == Some(value) && (self.is_alike || !is_schema(value));
            // Of maps whose keys are numbers, their patterns do not tell which numbers.
            if !is_known(keyword) && (!is_same || keyword == "patternProperties") {
                problems.extend(unsure(path, format!("`{keyword}` differs, and is not compared")));
            }
        }
        if let Some(value) = writes.get("const") {
            problems.extend(check_value(value, reads, path));
            return problems;
        }
        if let Some(value) = reads.get("const") {
            let written = type_of(writes).unwrap_or("value");
            if (written, value) != ("null", &Value::Null) {
                problems.extend(certain(
                    path,
                    format!("any {written} is written, and only `{value}` is read"),
                ));
            }
            return problems;
        }
        let (Some(written), Some(read)) = (type_of(writes), type_of(reads)) else {
            if !self.is_alike || writes != reads {
                problems.extend(unsure(path, "the types have no name to compare them by"));
            }
            return problems;
        };
        if written != read && (written, read) != ("integer", "number") {
            problems.extend(certain(path, format!("{written} is written, and {read} is read")));
            return problems;
        }
        problems.extend(match read {
            "object" => self.check_object(writes, reads, path),
            "array" => self.check_array(writes, reads, path),
            "string" => check_text(writes, reads, path),
            "integer" => check_integer(writes, reads, path),
            "number" => check_number(writes, reads, path),
            _ => Vec::new(),
        });
        problems
    }

    fn check_object(
        &mut self,
        writes: &Map<String, Value>,
        reads: &Map<String, Value>,
        path: &str,
    ) -> Vec<Problem> {
        let none = Map::new();
        let written = properties(writes).unwrap_or(&none);
        let read = properties(reads).unwrap_or(&none);
        let others_read = reads.get("additionalProperties").unwrap_or(&Value::Bool(true));
        let others_written = writes
            .get("additionalProperties")
            .filter(|schema| schema.is_object());
        // What is not known of a writer may be further fields.
        let are_all_known = writes.keys().all(|keyword| is_known(keyword));
        let always_written: BTreeSet<_> = required(writes).collect();
        let mut problems = Vec::new();
        for name in required(reads).filter(|name| !always_written.contains(name)) {
            let mend = "give it `#[serde(default)]` where it is read";
            let is_missing = !written.contains_key(name) && others_written.is_none();
            problems.extend(match is_missing && are_all_known {
                true => certain(
                    path,
                    format!("the field `{name}` is not written, and has to be there; {mend}"),
                ),
                false => unsure(
                    path,
                    format!("the field `{name}` may be left out, and has to be there; {mend}"),
                ),
            });
        }
        for (name, schema) in written {
            let path = format!("{path}.{name}");
            match read.get(name) {
                Some(reader) => problems.extend(self.check(schema, reader, &path)),
                None if *others_read == Value::Bool(false) => {
                    problems.extend(certain(
                        &path,
                        "the field is written, and unknown ones are refused",
                    ));
                }
                None => problems.extend(self.check(schema, others_read, &path)),
            }
        }
        if let Some(schema) = others_written {
            problems.extend(self.check(schema, others_read, &format!("{path}.*")));
            for (name, reader) in read.iter().filter(|(name, _)| !written.contains_key(*name)) {
                problems.extend(self.check(schema, reader, &format!("{path}.{name}")));
            }
        }
        problems
    }

    fn check_array(
        &mut self,
        writes: &Map<String, Value>,
        reads: &Map<String, Value>,
        path: &str,
    ) -> Vec<Problem> {
        let is_bytes = |schema: &Map<String, Value>| schema.get("format") == Some(&json!("bytes"));
        let mut problems = check_lengths(writes, reads, ["minItems", "maxItems"], path);
        if is_bytes(writes) && !is_bytes(reads) {
            problems.extend(unsure(path, "bytes are written, `bin` in MessagePack, which others than this crate may not read as a list"));
        }
        let anything = Value::Bool(true);
        let written = writes.get("items").unwrap_or(&anything);
        let read = reads.get("items").unwrap_or(&anything);
        match (written, read) {
            (Value::Array(written), Value::Array(read)) => {
                for (index, writer) in written.iter().enumerate() {
                    let reader = read.get(index).unwrap_or(&anything);
                    problems.extend(self.check(writer, reader, &format!("{path}[{index}]")));
                }
            }
            (Value::Array(written), reader) => {
                for (index, writer) in written.iter().enumerate() {
                    problems.extend(self.check(writer, reader, &format!("{path}[{index}]")));
                }
            }
            (writer, Value::Array(read)) => {
                for (index, reader) in read.iter().enumerate() {
                    problems.extend(self.check(writer, reader, &format!("{path}[{index}]")));
                }
            }
            (writer, reader) => problems.extend(self.check(writer, reader, &format!("{path}[]"))),
        }
        problems
    }
}

/// A value that is written, to a schema of one type.
fn check_value(value: &Value, reads: &Map<String, Value>, path: &str) -> Vec<Problem> {
    if let Some(read) = reads.get("const") {
        return match read == value {
            true => Vec::new(),
            false => certain(path, format!("`{value}` is written, and `{read}` is read")),
        };
    }
    let written = type_name(value);
    match type_of(reads) {
        Some(read) if read == written || (written, read) == ("integer", "number") => {}
        Some(read) => return certain(path, format!("`{value}` is written, and {read} is read")),
        None => {
            return unsure(
                path,
                format!("`{value}` is written, and what is read has no type"),
            );
        }
    }
    let limits = [
        "minimum",
        "maximum",
        "format",
        "pattern",
        "minLength",
        "maxLength",
        "properties",
    ];
    match limits.iter().find(|&&keyword| reads.contains_key(keyword)) {
        Some(keyword) => unsure(
            path,
            format!("`{value}` is written, and `{keyword}` is not looked at"),
        ),
        None => Vec::new(),
    }
}

fn check_text(writes: &Map<String, Value>, reads: &Map<String, Value>, path: &str) -> Vec<Problem> {
    let mut problems = check_lengths(writes, reads, ["minLength", "maxLength"], path);
    for keyword in ["format", "pattern"] {
        if let Some(read) = reads.get(keyword)
            && writes.get(keyword) != Some(read)
        {
            problems.extend(unsure(
                path,
                format!("text is read that has the {keyword} {read}"),
            ));
        }
    }
    problems
}

fn check_integer(writes: &Map<String, Value>, reads: &Map<String, Value>, path: &str) -> Vec<Problem> {
    let (written, read) = (numbers::range(writes), numbers::range(reads));
    if read.contains(&written) {
        return Vec::new();
    }
    certain(
        path,
        format!("integers {written} are written, and {read} are read"),
    )
}

fn check_number(writes: &Map<String, Value>, reads: &Map<String, Value>, path: &str) -> Vec<Problem> {
    let limits = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let mut limits = limits.iter().filter(|&&limit| reads.contains_key(limit));
    match limits.find(|&&limit| writes.get(limit) != reads.get(limit)) {
        Some(limit) => unsure(path, format!("the {limit} of numbers differs")),
        None => Vec::new(),
    }
}

fn check_lengths(
    writes: &Map<String, Value>,
    reads: &Map<String, Value>,
    [least, most]: [&str; 2],
    path: &str,
) -> Vec<Problem> {
    let length = |schema: &Map<String, Value>, keyword: &str| schema.get(keyword).and_then(Value::as_u64);
    let mut problems = Vec::new();
    if let Some(read) = length(reads, least)
        && length(writes, least).unwrap_or(0) < read
    {
        problems.extend(certain(
            path,
            format!("shorter ones than {read} are written, and not read"),
        ));
    }
    if let Some(read) = length(reads, most)
        && length(writes, most).is_none_or(|written| written > read)
    {
        problems.extend(certain(
            path,
            format!("longer ones than {read} are written, and not read"),
        ));
    }
    problems
}

/// Whether there may be schemas in a keyword's value.
fn is_schema(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

fn certain(path: &str, what: impl Into<String>) -> Vec<Problem> {
    problem(true, path, what)
}

fn unsure(path: &str, what: impl Into<String>) -> Vec<Problem> {
    problem(false, path, what)
}

fn problem(is_certain: bool, path: &str, what: impl Into<String>) -> Vec<Problem> {
    let what = match path {
        "" => what.into(),
        path => format!("at `{path}`, {}", what.into()),
    };
    vec![Problem { is_certain, what }]
}
