//! Compares two JSON Schemas: can a reader of one read every value that a writer of the other
//! writes?
//!
//! Supports the part of draft 7 that schemas of Rust types use. Any other keyword of the reader's
//! schema is reported as one that cannot be compared, unless it certainly means the same in the
//! writer's; `patternProperties` is reported even then. A schema may come from a peer, so the
//! number of steps and the depth are limited.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::numbers;
use super::shapes::{
    Definitions, alternatives, constraints, in_words, is_anything, is_supported, kind, properties, required,
    resolve, type_of, type_of_value,
};

/// Why a reader fails, or may fail, on some values that a writer may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Whether the reader certainly fails. Otherwise it may fail.
    pub(super) is_certain: bool,
    /// The reason, such as what is written and what is read, and where in the type that is.
    pub(super) what: String,
}

/// The limit on pairs of schemas to look at for one writer and reader of a type.
const MAX_STEPS_PER_TYPE: usize = 10_000;

/// The limit on the nesting of schemas.
const MAX_DEPTH: usize = 64;

/// The schema that allows any value.
static ANYTHING: Value = Value::Bool(true);

const TOO_LARGE: &str = "the types are too large to compare";

/// The limit on problems that are returned for one writer and reader of a type.
const MAX_PROBLEMS: usize = 10;

/// Returns why the reader may fail to read what the writer writes: at most [`MAX_PROBLEMS`], the
/// certain ones first.
///
/// Each side is a schema and the definitions that it refers to. `same_definitions` says whether
/// both sides have equal definitions. Looks at no more than `steps` pairs of schemas, and no more
/// than [`MAX_STEPS_PER_TYPE`], and subtracts those from `steps`.
pub(super) fn problems(
    writer: (&Value, &Definitions),
    reader: (&Value, &Definitions),
    same_definitions: bool,
    steps: &mut usize,
) -> Vec<Problem> {
    let allowed = MAX_STEPS_PER_TYPE.min(*steps);
    let mut comparison = SchemaComparison {
        writer_definitions: writer.1,
        reader_definitions: reader.1,
        same_definitions,
        steps: allowed,
        in_progress: Vec::new(),
    };
    let mut problems = comparison.check(writer.0, reader.0, "");
    *steps -= allowed - comparison.steps;
    problems.sort_by_key(|problem| !problem.is_certain);
    problems.truncate(MAX_PROBLEMS);
    problems
}

struct SchemaComparison<'a> {
    writer_definitions: &'a Definitions,
    reader_definitions: &'a Definitions,
    /// Whether both sides have equal definitions, so that equal schemas mean the same.
    same_definitions: bool,
    /// How many more pairs of schemas may be looked at.
    steps: usize,
    /// The pairs that are being compared, outermost first: their names if both are definitions,
    /// otherwise `None`. A recursive type leads back to one of them.
    in_progress: Vec<Option<(String, String)>>,
}

impl SchemaComparison<'_> {
    /// Returns why the reader may fail to read what the writer writes. `path` is where the schemas
    /// are in the type, for messages.
    fn check(&mut self, writer: &Value, reader: &Value, path: &str) -> Vec<Problem> {
        if self.steps == 0 || self.in_progress.len() >= MAX_DEPTH {
            return unsure(path, TOO_LARGE);
        }
        self.steps -= 1;
        let (Some((writer, writer_name)), Some((reader, reader_name))) = (
            resolve(writer, self.writer_definitions),
            resolve(reader, self.reader_definitions),
        ) else {
            return unsure(path, "the definition of a type is missing");
        };
        let pair = writer_name.zip(reader_name);
        if pair.is_some() && self.in_progress.contains(&pair) {
            // The outer comparison of the same pair finds the problems.
            return Vec::new();
        }
        self.in_progress.push(pair);
        let problems = self.check_resolved(writer, reader, path);
        self.in_progress.pop();
        problems
    }

    /// Compares two schemas that are no references.
    fn check_resolved(&mut self, writer: &Value, reader: &Value, path: &str) -> Vec<Problem> {
        if is_anything(reader) || *writer == Value::Bool(false) {
            return Vec::new();
        }
        if *reader == Value::Bool(false) {
            return certain(path, "the reader accepts no value");
        }
        if is_anything(writer) {
            return unsure(
                path,
                format!("any value may be written, and {} is read", in_words(reader)),
            );
        }
        let (Value::Object(writes), Value::Object(reads)) = (writer, reader) else {
            return unsure(path, "one of the schemas is neither an object nor a boolean");
        };
        let (writer_alternatives, reader_alternatives) = (
            alternatives(writes, self.writer_definitions),
            alternatives(reads, self.reader_definitions),
        );
        if writer_alternatives.is_none() && reader_alternatives.is_none() {
            return self.check_single(writes, reads, path);
        }
        let writer_alternatives = writer_alternatives.unwrap_or_else(|| vec![writer.clone()]);
        let reader_alternatives = reader_alternatives.unwrap_or_else(|| vec![reader.clone()]);
        writer_alternatives
            .iter()
            .flat_map(|writer| self.check_alternative(writer, &reader_alternatives, path))
            .collect()
    }

    /// Returns why none of the reader's alternatives reads what one of the writer's allows. Returns
    /// nothing if one of them does.
    ///
    /// The problems are those of the alternative that comes closest: the first that may read it, or
    /// else the first of the same kind. If there is none, one problem says so.
    fn check_alternative(&mut self, writer: &Value, readers: &[Value], path: &str) -> Vec<Problem> {
        let written_kind = kind(writer, self.writer_definitions);
        let mut of_same_kind = None;
        let mut uncertain = None;
        for reader in readers {
            if self.steps == 0 {
                return unsure(path, TOO_LARGE);
            }
            let problems = self.check(writer, reader, path);
            if problems.is_empty() {
                return problems;
            }
            if problems.iter().all(|problem| !problem.is_certain) {
                uncertain.get_or_insert(problems);
            } else if of_same_kind.is_none() && kind(reader, self.reader_definitions) == written_kind {
                of_same_kind = Some(problems);
            }
        }
        uncertain.or(of_same_kind).unwrap_or_else(|| {
            let resolved = resolve(writer, self.writer_definitions).map_or(writer, |(schema, _)| schema);
            certain(
                path,
                format!(
                    "{} is written, and the reader does not accept it",
                    in_words(resolved)
                ),
            )
        })
    }

    /// Compares two schemas that list no alternatives.
    fn check_single(
        &mut self,
        writes: &Map<String, Value>,
        reads: &Map<String, Value>,
        path: &str,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (keyword, value) in reads.iter().filter(|(keyword, _)| !is_supported(keyword)) {
            let is_same =
                writes.get(keyword) == Some(value) && (self.same_definitions || !may_contain_schemas(value));
            // The pattern of a map's integer keys does not show their width.
            if !is_same || keyword == "patternProperties" {
                problems.extend(unsure(path, format!("`{keyword}` cannot be compared")));
            }
        }
        problems.extend(self.check_supported(writes, reads, path));
        problems
    }

    /// Compares the supported keywords of two schemas that list no alternatives.
    fn check_supported(
        &mut self,
        writes: &Map<String, Value>,
        reads: &Map<String, Value>,
        path: &str,
    ) -> Vec<Problem> {
        if let Some(value) = writes.get("const") {
            return check_value(value, reads, path);
        }
        if let Some(value) = reads.get("const") {
            let written = type_of(writes).unwrap_or("value");
            // `null` is the only value of its type: a writer of any `null` writes this constant.
            if (written, value) == ("null", &Value::Null) {
                return Vec::new();
            }
            let what = format!("any {written} is written, and only `{value}` is read");
            return certain(path, what);
        }
        let (Some(written), Some(read)) = (type_of(writes), type_of(reads)) else {
            if self.same_definitions && writes == reads {
                return Vec::new();
            }
            return unsure(path, "the schemas do not name their types");
        };
        if !reads_type(read, written) {
            return certain(path, format!("{written} is written, and {read} is read"));
        }
        match read {
            "object" => self.check_object(writes, reads, path),
            "array" => self.check_array(writes, reads, path),
            "string" => check_text(writes, reads, path),
            "integer" => check_integer(writes, reads, path),
            "number" => check_number(writes, reads, path),
            _ => Vec::new(),
        }
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
        let additional_read = reads.get("additionalProperties").unwrap_or(&Value::Bool(true));
        let mut problems = check_required(writes, reads, path);
        for (name, schema) in written {
            let path = format!("{path}.{name}");
            problems.extend(match read.get(name) {
                Some(reader) => self.check(schema, reader, &path),
                None if *additional_read == Value::Bool(false) => certain(
                    &path,
                    "the field is written, and the reader refuses unknown fields",
                ),
                None => self.check(schema, additional_read, &path),
            });
        }
        if let Some(schema) = additional_written(writes) {
            problems.extend(self.check(schema, additional_read, &format!("{path}.*")));
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
            problems.extend(unsure(
                path,
                "bytes are written, `bin` in MessagePack, which other libraries may not read as a list",
            ));
        }
        let written = writes.get("items").unwrap_or(&ANYTHING);
        let read = reads.get("items").unwrap_or(&ANYTHING);
        // A tuple has a list of schemas, one for each position. Lengths are compared above.
        let positions = match (written, read) {
            (Value::Array(schemas), _) | (_, Value::Array(schemas)) => schemas.len(),
            (writer, reader) => {
                problems.extend(self.check(writer, reader, &format!("{path}[]")));
                return problems;
            }
        };
        for index in 0..positions {
            let (writer, reader) = (item_schema(written, index), item_schema(read, index));
            problems.extend(self.check(writer, reader, &format!("{path}[{index}]")));
        }
        problems
    }
}

/// Whether a reader of a type reads the other type.
fn reads_type(read: &str, written: &str) -> bool {
    read == written || (read, written) == ("number", "integer")
}

/// Returns the schema of the fields that a writer adds to those that it names.
fn additional_written(writes: &Map<String, Value>) -> Option<&Value> {
    // A schema without this keyword is that of a struct. It allows other fields too, but only the
    // writer of a map adds any.
    let schema = writes.get("additionalProperties")?;
    (*schema != Value::Bool(false)).then_some(schema)
}

/// Checks that all fields that the reader requires are written.
fn check_required(writes: &Map<String, Value>, reads: &Map<String, Value>, path: &str) -> Vec<Problem> {
    // A keyword that is not supported may add fields.
    let may_add_fields =
        additional_written(writes).is_some() || !writes.keys().all(|keyword| is_supported(keyword));
    let always_written: BTreeSet<_> = required(writes).collect();
    let missing = required(reads).filter(|name| !always_written.contains(name));
    let problem = |name| {
        let advice = "give it `#[serde(default)]` in the reader";
        let is_named = properties(writes).is_some_and(|written| written.contains_key(name));
        if is_named || may_add_fields {
            let what = format!("the required field `{name}` may be left out; {advice}");
            unsure(path, what)
        } else {
            let what = format!("the required field `{name}` is not written; {advice}");
            certain(path, what)
        }
    };
    missing.flat_map(problem).collect()
}

/// Returns the schema of an item, given the keyword `items`. Items after those of a tuple may be
/// anything.
fn item_schema(items: &Value, index: usize) -> &Value {
    match items {
        Value::Array(schemas) => schemas.get(index).unwrap_or(&ANYTHING),
        schema => schema,
    }
}

/// Checks that a schema without alternatives reads this value, the only one that is written.
fn check_value(value: &Value, reads: &Map<String, Value>, path: &str) -> Vec<Problem> {
    if let Some(read) = reads.get("const") {
        return if read == value {
            Vec::new()
        } else {
            certain(path, format!("`{value}` is written, and `{read}` is read"))
        };
    }
    let Some(read) = type_of(reads) else {
        return unsure(
            path,
            format!("`{value}` is written, and the reader's schema does not name its type"),
        );
    };
    if !reads_type(read, type_of_value(value)) {
        return certain(path, format!("`{value}` is written, and {read} is read"));
    }
    if read == "integer"
        && let Some(written) = numbers::range_of_value(value)
    {
        let read = numbers::range(reads);
        return if read.contains(&written) {
            Vec::new()
        } else {
            certain(
                path,
                format!("`{value}` is written, and integers {read} are read"),
            )
        };
    }
    // `check_single` reports the keywords that are not supported.
    match constraints(reads).find(|&keyword| keyword != "type" && is_supported(keyword)) {
        Some(keyword) => unsure(
            path,
            format!("`{value}` is written, and the reader's `{keyword}` is not checked"),
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
                format!("the reader requires text of the {keyword} {read}"),
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

/// Checks the limits of numbers. Floats of 32 and 64 bits read each other's values, if rounded, so
/// the `format` does not count.
fn check_number(writes: &Map<String, Value>, reads: &Map<String, Value>, path: &str) -> Vec<Problem> {
    let limits = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let is_changed = |limit: &&str| reads.contains_key(*limit) && writes.get(*limit) != reads.get(*limit);
    match limits.into_iter().find(is_changed) {
        Some(limit) => unsure(path, format!("the {limit} of numbers differs")),
        None => Vec::new(),
    }
}

fn check_lengths(
    writes: &Map<String, Value>,
    reads: &Map<String, Value>,
    [min_keyword, max_keyword]: [&str; 2],
    path: &str,
) -> Vec<Problem> {
    let length = |schema: &Map<String, Value>, keyword: &str| schema.get(keyword).and_then(Value::as_u64);
    let mut problems = Vec::new();
    if let Some(read) = length(reads, min_keyword)
        && length(writes, min_keyword).unwrap_or(0) < read
    {
        problems.extend(certain(
            path,
            format!("lengths below {read} are written, and not read"),
        ));
    }
    if let Some(read) = length(reads, max_keyword)
        && length(writes, max_keyword).is_none_or(|written| written > read)
    {
        problems.extend(certain(
            path,
            format!("lengths above {read} are written, and not read"),
        ));
    }
    problems
}

/// Whether a keyword's value may contain schemas. Their meaning depends on the definitions.
fn may_contain_schemas(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

/// Returns one problem, because of which the reader certainly fails.
fn certain(path: &str, what: impl Into<String>) -> Vec<Problem> {
    problem(true, path, what)
}

/// Returns one problem, because of which the reader may fail.
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
