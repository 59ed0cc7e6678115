//! Reads keywords of JSON Schemas. Schemas may come from peers: a keyword's value may be any JSON.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// A schema's keywords.
pub(crate) type Keywords = Map<String, Value>;

/// Returns the description of a schema, or an empty text if it has none.
pub(crate) fn docs(schema: &Value) -> String {
    text(schema.get("description")).unwrap_or_default().to_owned()
}

pub(crate) fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

/// Returns the list `oneOf` of a schema or, without that keyword, `anyOf`. `None` if the list is
/// empty, or if the schema has fields of its own beside it.
pub(crate) fn alternatives(schema: &Keywords) -> Option<&[Value]> {
    if schema.contains_key("properties") {
        return None;
    }
    let alternatives = schema.get("oneOf").or_else(|| schema.get("anyOf"))?;
    let alternatives = alternatives.as_array()?;
    (!alternatives.is_empty()).then_some(alternatives)
}

/// Whether a schema combines others with `allOf`, `anyOf` or `oneOf`.
pub(crate) fn is_combined(schema: &Keywords) -> bool {
    let keywords = ["allOf", "anyOf", "oneOf"];
    keywords.iter().any(|keyword| schema.contains_key(*keyword))
}

/// Returns the fields of a schema: first those in `required`, in its order, which schemars takes
/// from the struct, then the others. `None` if the schema has no `properties`.
pub(crate) fn fields(schema: &Keywords) -> Option<Vec<(&str, &Value)>> {
    let properties = schema.get("properties").and_then(Value::as_object)?;
    let mut fields: Vec<_> = properties.iter().map(|(name, it)| (name.as_str(), it)).collect();
    let mut places = HashMap::new();
    for (place, name) in required(schema).enumerate() {
        // If a name is required twice, its first place counts.
        places.entry(name).or_insert(place);
    }
    fields.sort_by_key(|(name, _)| places.get(name).copied().unwrap_or(usize::MAX));
    Some(fields)
}

pub(crate) fn required(schema: &Keywords) -> impl Iterator<Item = &str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

pub(crate) fn is_required(schema: &Keywords, field: &str) -> bool {
    required(schema).any(|name| name == field)
}

/// Returns the text that is the only value that a schema allows, if there is one.
pub(crate) fn constant(schema: &Value) -> Option<&str> {
    match texts(schema)?.as_slice() {
        [(only, _)] => Some(only),
        _ => None,
    }
}

/// Returns the texts that a schema allows, if its `const` or `enum` allows nothing else. Each comes
/// with its documentation: the description beside a `const`, always empty for an `enum`.
pub(crate) fn texts(schema: &Value) -> Option<Vec<(&str, &str)>> {
    if let Some(only) = schema.get("const") {
        let docs = text(schema.get("description")).unwrap_or_default();
        return Some(vec![(only.as_str()?, docs)]);
    }
    let values = schema.get("enum")?.as_array().filter(|it| !it.is_empty())?;
    values.iter().map(|value| Some((value.as_str()?, ""))).collect()
}

pub(crate) fn is_null(schema: &Value) -> bool {
    text(schema.get("type")) == Some("null")
}
