//! The shape of a JSON Schema: the type or the alternatives that it allows, with references
//! resolved.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::references::{TYPES, definition_name};

pub(super) type Definitions = BTreeMap<String, Value>;

/// The limit on references, and on schemas that only wrap a reference, to follow to one schema.
/// References may form a cycle.
const MAX_REFERENCES: usize = 64;

/// The limit on the nesting of alternatives to expand.
const MAX_NESTED: usize = 8;

/// The number of alternatives after which nested ones are not expanded.
const MAX_ALTERNATIVES: usize = 1000;

/// The most alternatives that a message lists. It says how many more there are.
const MAX_IN_WORDS: usize = 4;

/// Keywords that do not restrict values.
const ANNOTATIONS: [&str; 10] = [
    "$comment",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// Keywords that the comparison of schemas without alternatives supports. It skips `uniqueItems`:
/// Rust's sets accept duplicates when they are read.
const SUPPORTED: [&str; 19] = [
    "$ref",
    "additionalProperties",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "uniqueItems",
];

/// Follows references, also through an `allOf` with one part. Returns the schema, and the name of
/// the last definition on the way, if any. Returns `None` if a reference does not lead to a
/// definition, or if there are too many.
pub(super) fn resolve<'a>(
    mut schema: &'a Value,
    definitions: &'a Definitions,
) -> Option<(&'a Value, Option<String>)> {
    let mut name = None;
    for _ in 0..MAX_REFERENCES {
        let Value::Object(object) = schema else {
            return Some((schema, name));
        };
        if let Some(Value::String(reference)) = object.get("$ref") {
            let target = definition_name(reference)?;
            schema = definitions.get(&target)?;
            name = Some(target);
            continue;
        }
        // A reference with a description beside it is written as the only part of an `allOf`.
        match object.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            Some([only]) if constraints(object).eq(["allOf"]) => schema = only,
            _ => return Some((schema, name)),
        }
    }
    None
}

/// Returns the keywords that may restrict values: all but [`ANNOTATIONS`].
pub(super) fn constraints(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let keywords = schema.keys().map(String::as_str);
    keywords.filter(|keyword| !ANNOTATIONS.contains(keyword))
}

/// Whether the comparison of schemas without alternatives supports a keyword, or may skip it.
pub(super) fn is_supported(keyword: &str) -> bool {
    ANNOTATIONS.contains(&keyword) || SUPPORTED.contains(&keyword)
}

/// Whether a schema allows every value because it has no keyword that restricts values.
pub(super) fn is_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(anything) => *anything,
        Value::Object(schema) => constraints(schema).next().is_none(),
        _ => false,
    }
}

/// Returns the alternatives of a schema, with nested ones expanded, or `None` if it does not list
/// any.
pub(super) fn alternatives(schema: &Map<String, Value>, definitions: &Definitions) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for alternative in direct_alternatives(schema)? {
        push_alternatives(alternative, definitions, MAX_NESTED, &mut all);
    }
    Some(all)
}

/// Adds a schema to `all`, or its alternatives if it has any. Expands at most `levels` of nesting,
/// and nothing once `all` has [`MAX_ALTERNATIVES`].
fn push_alternatives(schema: Value, definitions: &Definitions, levels: usize, all: &mut Vec<Value>) {
    let resolved = resolve(&schema, definitions).and_then(|(schema, _)| schema.as_object());
    match resolved.and_then(direct_alternatives) {
        Some(alternatives) if levels > 0 && all.len() < MAX_ALTERNATIVES => {
            for alternative in alternatives {
                push_alternatives(alternative, definitions, levels - 1, all);
            }
        }
        _ => all.push(schema),
    }
}

/// Returns the alternatives of an `enum`, of a list of types, or of an `anyOf` or `oneOf` without
/// other restrictions. Ignores what restricts the values of an `enum` further, and unknown types.
fn direct_alternatives(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    if let Some(Value::Array(values)) = schema.get("enum") {
        return Some(values.iter().map(|value| json!({"const": value})).collect());
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(Value::Array(schemas)) = schema.get(keyword)
            && constraints(schema).eq([keyword])
        {
            return Some(schemas.clone());
        }
    }
    let Some(Value::Array(types)) = schema.get("type") else {
        return None;
    };
    let known = TYPES.into_iter().filter(|name| types.iter().any(|ty| ty == name));
    let of_type = |name: &str| match name {
        // Other keywords, such as `maxLength`, do not apply to `null`.
        "null" => json!({"type": name}),
        name => {
            let mut schema = schema.clone();
            schema.insert("type".to_owned(), json!(name));
            Value::Object(schema)
        }
    };
    Some(known.map(of_type).collect())
}

/// Returns what distinguishes an alternative: its value, its tag, or its type. `None` if it has
/// none of these, or if its reference leads nowhere.
pub(super) fn kind(schema: &Value, definitions: &Definitions) -> Option<String> {
    let (schema, _) = resolve(schema, definitions)?;
    let schema = schema.as_object()?;
    if let Some(value) = schema.get("const") {
        return Some(value.to_string());
    }
    if let Some(tag) = tag(schema) {
        return Some(tag);
    }
    Some(format!("any {}", type_of(schema)?))
}

/// Returns what looks like the tag of an enum's variant that is an object: the first field with a
/// fixed value, as `name: value`, or the name of its only field if it allows no others. A struct
/// with one field that allows no others looks the same.
pub(super) fn tag(schema: &Map<String, Value>) -> Option<String> {
    let properties = properties(schema)?;
    let fixed = properties
        .iter()
        .find_map(|(name, property)| Some((name, property.get("const")?)));
    if let Some((name, value)) = fixed {
        return Some(format!("{name}: {value}"));
    }
    let mut names = properties.keys();
    match (names.next(), names.next(), schema.get("additionalProperties")) {
        (Some(name), None, Some(Value::Bool(false))) => Some(name.clone()),
        _ => None,
    }
}

/// Returns the type that a schema names, or `None` if it names none or several.
pub(super) fn type_of(schema: &Map<String, Value>) -> Option<&str> {
    schema.get("type").and_then(Value::as_str)
}

/// Returns the name that JSON Schema has for the type of a value. Every float is a `number`, even
/// `1.0`.
pub(super) fn type_of_value(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

pub(super) fn properties(schema: &Map<String, Value>) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

pub(super) fn required(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

/// Describes a schema in a few words, for a message. Lists its alternatives if it has any, at most
/// [`MAX_IN_WORDS`], but not those within them.
pub(super) fn in_words(schema: &Value) -> String {
    let alternatives = schema.as_object().and_then(direct_alternatives);
    let Some(alternatives) = alternatives.filter(|alternatives| !alternatives.is_empty()) else {
        return in_a_word(schema);
    };
    let mut words: Vec<_> = alternatives.iter().take(MAX_IN_WORDS).map(in_a_word).collect();
    match alternatives.len() - words.len() {
        0 => {}
        more => words.push(format!("{more} more")),
    }
    let last = words.pop().unwrap_or_default();
    if words.is_empty() {
        return last;
    }
    format!("{} or {last}", words.join(", "))
}

/// Describes a schema by its value, its tag, the name of the definition that it refers to, or its
/// type, and else as "a value".
fn in_a_word(schema: &Value) -> String {
    let Some(schema) = schema.as_object() else {
        return "a value".to_owned();
    };
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(tag) = tag(schema) {
        return format!("`{tag}`");
    }
    let reference = schema.get("$ref").and_then(Value::as_str);
    if let Some(name) = reference.and_then(definition_name) {
        return format!("`{name}`");
    }
    type_of(schema).unwrap_or("a value").to_owned()
}
