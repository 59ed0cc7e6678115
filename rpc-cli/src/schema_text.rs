//! Shows JSON Schemas (draft 7, as descriptions have them) of types in a short form that reads like
//! Rust.

use std::cell::Cell;

use rpc_contract::definition_name;
use serde_json::{Map, Value};

/// The limit on the nesting of schemas.
const MAX_DEPTH: usize = 8;

/// The limit on alternatives, fields or elements that are shown on one line.
const MAX_SHOWN: usize = 40;

/// The limit on schemas that are shown in one type: a schema may contain others several times.
const MAX_SCHEMAS: usize = 500;

/// How much of a type may still be shown. `..` stands for the rest.
#[derive(Clone, Copy)]
struct Limits<'a> {
    depth: usize,
    schemas: &'a Cell<usize>,
}

impl Limits<'_> {
    /// Returns the limits of the schemas within a schema.
    fn nested(self) -> Self {
        Self {
            depth: self.depth.saturating_sub(1),
            ..self
        }
    }

    /// Counts a schema. Returns `false` if it may not be shown.
    fn admit(self) -> bool {
        if self.depth == 0 || self.schemas.get() == 0 {
            return false;
        }
        self.schemas.update(|left| left - 1);
        true
    }
}

/// Returns the lines that show a definition: a field or an alternative per line, else the type.
pub(crate) fn definition(name: &str, schema: &Value) -> Vec<String> {
    let mut lines = docs(schema, "    ");
    lines.push(format!("    type {name}"));
    let Some(fields) = schema.get("properties").and_then(Value::as_object) else {
        lines.extend(lines_without_fields(schema));
        return lines;
    };
    for (field, schema_of_field) in fields {
        lines.extend(docs(schema_of_field, "        "));
        let optional = if is_required(schema, field) {
            ""
        } else {
            "    (optional)"
        };
        lines.push(format!(
            "        {field}: {}{optional}",
            type_text(schema_of_field)
        ));
    }
    // A struct with an enum in a `#[serde(flatten)]` field.
    if alternatives(schema).is_some() {
        let alternatives = with_limits(|limits| alternatives_text(schema, limits));
        lines.push(format!("        ..{alternatives}"));
    }
    lines
}

/// Returns the lines for a definition without fields: an alternative per line, else the type.
fn lines_without_fields(schema: &Value) -> Vec<String> {
    let Some(alternatives) = alternatives(schema) else {
        return vec![format!("        {}", type_text(schema))];
    };
    let mut lines = Vec::new();
    for alternative in alternatives {
        lines.extend(docs(alternative, "        "));
        lines.push(format!("        {}", type_text(alternative)));
    }
    lines
}

fn docs(schema: &Value, indent: &str) -> Vec<String> {
    let docs = schema.get("description").and_then(Value::as_str);
    let lines = docs.unwrap_or_default().lines();
    lines
        .map(|line| format!("{indent}/// {line}").trim_end().to_owned())
        .collect()
}

/// Returns the alternatives of the schema of an enum or an `Option`. `None` if it has none.
fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    let alternatives = schema.get("oneOf").or_else(|| schema.get("anyOf"));
    alternatives.and_then(Value::as_array)
}

fn is_required(schema: &Value, field: &str) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|names| names.iter().any(|name| name == field))
}

/// Returns the type that a schema describes, such as `[User] | null`.
fn type_text(schema: &Value) -> String {
    with_limits(|limits| type_within(schema, limits))
}

fn with_limits(show: impl FnOnce(Limits<'_>) -> String) -> String {
    show(Limits {
        depth: MAX_DEPTH,
        schemas: &Cell::new(MAX_SCHEMAS),
    })
}

/// Like [`type_text`], within these limits.
fn type_within(schema: &Value, limits: Limits<'_>) -> String {
    let Value::Object(object) = schema else {
        return "any".to_owned();
    };
    if !limits.admit() {
        return "..".to_owned();
    }
    if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
        let last_part = || reference.rsplit('/').next().unwrap_or(reference).to_owned();
        return definition_name(reference).unwrap_or_else(last_part);
    }
    if let Some(value) = object.get("const") {
        return value.to_string();
    }
    if let Some(Value::Array(values)) = object.get("enum") {
        return joined(values.iter().map(Value::to_string), " | ");
    }
    if let Some([only]) = object.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        return type_within(only, limits.nested());
    }
    // Beside `properties`, alternatives are those of a flattened enum, which are left out here.
    if alternatives(schema).is_some() && !object.contains_key("properties") {
        return alternatives_text(schema, limits);
    }
    match object.get("type") {
        Some(Value::String(name)) => keyword_text(name, object, limits),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            joined(names.map(|name| keyword_text(name, object, limits)), " | ")
        }
        _ => "any".to_owned(),
    }
}

fn alternatives_text(schema: &Value, limits: Limits<'_>) -> String {
    let alternatives = alternatives(schema).into_iter().flatten();
    joined(
        alternatives.map(|schema| type_within(schema, limits.nested())),
        " | ",
    )
}

/// Returns the text for one of the values that a schema's `type` has, such as `integer`.
fn keyword_text(keyword: &str, schema: &Map<String, Value>, limits: Limits<'_>) -> String {
    let format = schema.get("format").and_then(Value::as_str);
    match (keyword, format) {
        ("integer" | "number", Some(format)) => number_text(format),
        ("boolean", _) => "bool".to_owned(),
        ("string", Some(format)) => format!("string ({format})"),
        // The runtime's own format.
        ("array", Some("bytes")) => "bytes".to_owned(),
        ("array", _) => array_text(schema, limits),
        ("object", _) => object_text(schema, limits),
        (keyword, _) => keyword.to_owned(),
    }
}

/// Returns the Rust type that schemars calls `uint64` or `double`, or any other format as it is.
fn number_text(format: &str) -> String {
    match format {
        "float" => "f32".to_owned(),
        "double" => "f64".to_owned(),
        "int" => "isize".to_owned(),
        "uint" => "usize".to_owned(),
        "int8" | "int16" | "int32" | "int64" | "int128" => format.replace("int", "i"),
        "uint8" | "uint16" | "uint32" | "uint64" | "uint128" => format.replace("uint", "u"),
        format => format.to_owned(),
    }
}

fn array_text(schema: &Map<String, Value>, limits: Limits<'_>) -> String {
    match schema.get("items") {
        Some(Value::Array(items)) => {
            let items = items.iter().map(|item| type_within(item, limits.nested()));
            format!("({})", joined(items, ", "))
        }
        Some(item) => format!("[{}]", type_within(item, limits.nested())),
        None => "[any]".to_owned(),
    }
}

fn object_text(schema: &Map<String, Value>, limits: Limits<'_>) -> String {
    if let Some(Value::Object(fields)) = schema.get("properties") {
        let fields = fields
            .iter()
            .map(|(name, field)| format!("{name}: {}", type_within(field, limits.nested())));
        return format!("{{{}}}", joined(fields, ", "));
    }
    match schema.get("additionalProperties") {
        Some(values @ Value::Object(_)) => format!("{{string: {}}}", type_within(values, limits.nested())),
        _ => "object".to_owned(),
    }
}

/// Joins the first [`MAX_SHOWN`] parts; `..` stands for the others.
fn joined(parts: impl Iterator<Item = String>, separator: &str) -> String {
    let mut parts: Vec<_> = parts.take(MAX_SHOWN + 1).collect();
    if parts.len() > MAX_SHOWN {
        parts[MAX_SHOWN] = "..".to_owned();
    }
    parts.join(separator)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_shown_with_types_and_docs() {
        let user = json!({
            "type": "object",
            "description": "A person.",
            "properties": {
                "id": {"type": "integer", "format": "uint64", "description": "Unique."},
                "invited_by": {"anyOf": [{"$ref": "#/definitions/User"}, {"type": "null"}]},
            },
            "required": ["id"],
        });
        assert_eq!(
            definition("User", &user).join("\n"),
            "    /// A person.
    type User
        /// Unique.
        id: u64
        invited_by: User | null    (optional)"
        );
    }

    #[test]
    fn variants_are_shown_one_per_line() {
        let role = json!({"oneOf": [
            {"type": "string", "enum": ["guest", "member"]},
            {"type": "object", "description": "For a while.", "properties": {"deputy": {"type": "object", "properties": {"days": {"type": "integer", "format": "uint16"}}}}},
        ]});
        assert_eq!(
            definition("Role", &role).join("\n"),
            "    type Role
        \"guest\" | \"member\"
        /// For a while.
        {deputy: {days: u16}}"
        );
    }

    #[test]
    fn types_read_like_rust() {
        for (schema, expected) in [
            (
                json!({"type": ["integer", "null"], "format": "int32"}),
                "i32 | null",
            ),
            (
                json!({"type": "array", "items": {"type": "number", "format": "double"}}),
                "[f64]",
            ),
            (
                json!({"type": "array", "items": [{"type": "string"}, {"type": "boolean"}]}),
                "(string, bool)",
            ),
            (json!({"type": "array", "format": "bytes"}), "bytes"),
            (
                json!({"type": "object", "additionalProperties": {"type": "string", "format": "uuid"}}),
                "{string: string (uuid)}",
            ),
            (json!({"allOf": [{"$ref": "#/definitions/User"}]}), "User"),
            (json!({"$ref": "#/definitions/Page%3CUser%3E"}), "Page<User>"),
            (json!({"$ref": "#/definitions/a~1b"}), "a/b"),
            (json!({"$ref": "https://example.com/user"}), "user"),
            (json!({"const": "a"}), "\"a\""),
            (json!(true), "any"),
            (json!({}), "any"),
            (json!({"type": 7, "oneOf": 7}), "any"),
        ] {
            assert_eq!(type_text(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn any_schema_of_a_peer_is_shown_in_bounds() {
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = json!({"type": "array", "items": deep});
        }
        assert_eq!(type_text(&deep), "[[[[[[[[..]]]]]]]]");
        let wide = json!({"enum": vec![0; 1000]});
        assert!(type_text(&wide).len() < 200);
        // Small, but each level shows the next one twenty times.
        let mut repeated = json!({"type": "string"});
        for _ in 0..8 {
            repeated = json!({"type": vec!["array"; 20], "items": repeated});
        }
        assert!(type_text(&repeated).len() < 200 * MAX_SCHEMAS);
    }
}
