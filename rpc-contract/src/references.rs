//! References between JSON Schemas, and what becomes of schemas and their references in an AsyncAPI
//! document.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// The beginning of a reference to one of a description's definitions.
const DEFINITIONS: &str = "#/definitions/";

/// Keywords whose value is data, not a schema.
const DATA_KEYWORDS: [&str; 4] = ["const", "default", "enum", "examples"];

/// Keywords whose value is a map from names or patterns to schemas. In `dependencies`, an entry may
/// be a list of names instead.
const MAP_KEYWORDS: [&str; 4] = ["definitions", "dependencies", "patternProperties", "properties"];

/// The names that the keyword `type` may have.
pub(super) const TYPES: [&str; 7] = [
    "array", "boolean", "integer", "null", "number", "object", "string",
];

/// Unique document keys for names. A key has only ASCII letters, digits, `.`, `-` and `_`.
pub(super) struct DocumentKeys {
    in_order: Vec<String>,
    /// The index of each name's key. If a name occurs twice, that of its first key.
    by_name: BTreeMap<String, usize>,
}

impl DocumentKeys {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut unique = UniqueKeys::default();
        let mut keys = Self {
            in_order: Vec::new(),
            by_name: BTreeMap::new(),
        };
        for name in names {
            let key = unique.add(sanitized(name));
            keys.by_name.entry(name.to_owned()).or_insert(keys.in_order.len());
            keys.in_order.push(key);
        }
        keys
    }

    /// Returns the keys in the order in which [`new`](Self::new) got their names.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &str> {
        self.in_order.iter().map(String::as_str)
    }

    fn key(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(|&index| self.in_order[index].as_str())
    }
}

/// Replaces each character that a key cannot have by `_`. An empty name becomes `_`. No key is
/// `__proto__`, which sets an object's prototype in JavaScript, the language of AsyncAPI's tools.
fn sanitized(name: &str) -> String {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let key = name.replace(|c| !is_allowed(c), "_");
    match key.as_str() {
        "" => "_".to_owned(),
        // Also what other names have just become, such as `/_proto_/`.
        "__proto__" => "_proto_".to_owned(),
        _ => key,
    }
}

#[derive(Default)]
struct UniqueKeys {
    taken: BTreeSet<String>,
    /// For each key that was asked for, the last number that was appended to it, or 1.
    numbers: BTreeMap<String, usize>,
}

impl UniqueKeys {
    /// Takes the key and returns it, followed by `_2` or a higher number if it was taken before.
    fn add(&mut self, key: String) -> String {
        let number = self.numbers.entry(key.clone()).or_insert(1);
        let mut candidate = key.clone();
        while !self.taken.insert(candidate.clone()) {
            *number += 1;
            candidate = format!("{key}_{number}");
        }
        candidate
    }
}

/// Returns the name of the definition that a `$ref` refers to, or `None` if it does not begin with
/// `#/definitions/`.
///
/// The description may have no such definition. All that follows `#/definitions/` is taken for the
/// name, also in a reference to a part of a definition.
///
/// ```
/// use rpc_contract::definition_name;
///
/// let name = definition_name("#/definitions/Page%3CUser%3E");
/// assert_eq!(name.as_deref(), Some("Page<User>"));
/// assert_eq!(definition_name("users.json"), None);
/// ```
#[must_use]
pub fn definition_name(reference: &str) -> Option<String> {
    let pointer = percent_decoded(reference.strip_prefix(DEFINITIONS)?);
    // In this order: `~01` stands for `~1`.
    Some(pointer.replace("~1", "/").replace("~0", "~"))
}

/// Decodes the bytes that a URI writes as `%` and two hexadecimal digits. A `%` without them stays.
/// Decoded bytes that are not UTF-8 become U+FFFD.
pub(super) fn percent_decoded(text: &str) -> String {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (mut decoded, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        if let [b'%', high, low, after @ ..] = rest
            && let Some((high, low)) = digit(high).zip(digit(low))
        {
            decoded.push(16 * high + low);
            rest = after;
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Converts a description's schema for a document, which has the definitions in its `components`.
///
/// A `schema` that is neither an object nor a boolean becomes the schema of any value, and so does
/// each object whose `$ref` leads to none of the definitions in `keys`. `$id`, `$schema` and
/// keywords with malformed values are left out.
pub(super) fn convert_schema(schema: &Value, keys: &DocumentKeys) -> Value {
    match schema {
        Value::Bool(_) => schema.clone(),
        Value::Object(object) => convert_object(object, keys),
        _ => Value::Object(Map::new()),
    }
}

fn convert_object(object: &Map<String, Value>, keys: &DocumentKeys) -> Value {
    let mut converted = Map::new();
    let well_formed = object
        .iter()
        .filter(|(keyword, value)| is_well_formed(keyword, value));
    for (keyword, value) in well_formed {
        let value = match (keyword.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                let name = definition_name(reference);
                let Some(key) = name.and_then(|name| keys.key(&name).map(str::to_owned)) else {
                    // Other keywords beside a `$ref` mean nothing in draft 7.
                    return Value::Object(Map::new());
                };
                Value::String(format!("#/components/schemas/{key}"))
            }
            // The document sets the dialect, and what references are relative to.
            ("$id" | "$schema", _) => continue,
            (keyword, value) if DATA_KEYWORDS.contains(&keyword) => value.clone(),
            (keyword, Value::Object(schemas)) if MAP_KEYWORDS.contains(&keyword) => {
                let schemas = schemas.iter();
                schemas
                    .map(|(name, schema)| (name.clone(), convert_value(schema, keys)))
                    .collect()
            }
            (_, value) => convert_value(value, keys),
        };
        converted.insert(keyword.clone(), value);
    }
    Value::Object(converted)
}

/// Converts the value of a keyword. Objects in it are taken for schemas, and all else stays.
fn convert_value(value: &Value, keys: &DocumentKeys) -> Value {
    match value {
        Value::Object(object) => convert_object(object, keys),
        Value::Array(values) => values.iter().map(|value| convert_value(value, keys)).collect(),
        _ => value.clone(),
    }
}

/// Whether a keyword of draft 7 or AsyncAPI may have this value. An unknown keyword may have any.
/// Keywords of schemas in the value are checked separately.
fn is_well_formed(keyword: &str, value: &Value) -> bool {
    match keyword {
        "additionalItems"
        | "additionalProperties"
        | "contains"
        | "else"
        | "if"
        | "not"
        | "propertyNames"
        | "then" => is_schema(value),
        "allOf" | "anyOf" | "oneOf" => is_nonempty_list_of(value, is_schema),
        "items" => is_schema(value) || is_nonempty_list_of(value, is_schema),
        "definitions" | "patternProperties" | "properties" => is_map_of(value, is_schema),
        "dependencies" => is_map_of(value, |value| {
            is_schema(value) || is_set_of(value, Value::is_string)
        }),
        "type" => is_type(value) || (is_nonempty_list_of(value, is_type) && is_set_of(value, is_type)),
        "required" => is_set_of(value, Value::is_string),
        "enum" => is_nonempty_list_of(value, |_| true) && is_set_of(value, |_| true),
        "examples" => value.is_array(),
        "exclusiveMaximum" | "exclusiveMinimum" | "maximum" | "minimum" => value.is_number(),
        "multipleOf" => value.as_f64().is_some_and(|number| number > 0.0),
        "maxItems" | "maxLength" | "maxProperties" | "minItems" | "minLength" | "minProperties" => {
            value.is_u64()
        }
        "deprecated" | "readOnly" | "uniqueItems" | "writeOnly" => value.is_boolean(),
        "$comment" | "$ref" | "contentEncoding" | "contentMediaType" | "description" | "discriminator"
        | "format" | "pattern" | "title" => value.is_string(),
        // AsyncAPI requires a URL in it, and no schema of a Rust type has this keyword.
        "externalDocs" => false,
        _ => true,
    }
}

fn is_schema(value: &Value) -> bool {
    value.is_object() || value.is_boolean()
}

fn is_type(value: &Value) -> bool {
    value.as_str().is_some_and(|name| TYPES.contains(&name))
}

/// Whether a value is a list of at least one such element.
fn is_nonempty_list_of(value: &Value, is_element: fn(&Value) -> bool) -> bool {
    let elements = value.as_array().filter(|elements| !elements.is_empty());
    elements.is_some_and(|elements| elements.iter().all(is_element))
}

/// Whether a value is a list, maybe an empty one, of such elements, each of them once.
fn is_set_of(value: &Value, is_element: fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|elements| {
        let texts: BTreeSet<_> = elements.iter().map(Value::to_string).collect();
        texts.len() == elements.len() && elements.iter().all(is_element)
    })
}

fn is_map_of(value: &Value, is_element: fn(&Value) -> bool) -> bool {
    value.as_object().is_some_and(|map| map.values().all(is_element))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert(schema: Value) -> Value {
        convert_schema(
            &schema,
            &DocumentKeys::new(["User", "Page<User>", "a/b"].into_iter()),
        )
    }

    #[test]
    fn keys_are_unique() {
        let keys = DocumentKeys::new(["get", "a b", "a/b", "a_b", "", "ü", "get", "__proto__"].into_iter());
        let keys: Vec<_> = keys.in_order().collect();
        assert_eq!(
            keys,
            ["get", "a_b", "a_b_2", "a_b_3", "_", "__2", "get_2", "_proto_"]
        );
    }

    #[test]
    fn no_key_is_that_of_a_prototype() {
        let names = ["/_proto_/", "__proto__", "_proto_", "ü_proto__"];
        let keys = DocumentKeys::new(names.into_iter());
        let keys: Vec<_> = keys.in_order().collect();
        assert_eq!(keys, ["_proto_", "_proto__2", "_proto__3", "_proto__4"]);
    }

    #[test]
    fn references_are_changed_with_their_definitions() {
        assert_eq!(
            convert(
                json!({"items": [{"$ref": "#/definitions/User"}, {"$ref": "#/definitions/Page<User>"}], "not": {"$ref": "#/definitions/a~1b"}})
            ),
            json!({"items": [{"$ref": "#/components/schemas/User"}, {"$ref": "#/components/schemas/Page_User_"}], "not": {"$ref": "#/components/schemas/a_b"}}),
        );
    }

    #[test]
    fn names_in_references_are_percent_decoded() {
        for (reference, name) in [
            ("Page%3CUser%3E", "Page<User>"),
            ("%C3%BC%7e1", "ü/"),
            ("100%", "100%"),
            ("%+f%4", "%+f%4"),
        ] {
            let reference = format!("#/definitions/{reference}");
            assert_eq!(definition_name(&reference).as_deref(), Some(name));
        }
        assert_eq!(
            convert(json!({"$ref": "#/definitions/Page%3CUser%3E"})),
            json!({"$ref": "#/components/schemas/Page_User_"}),
        );
    }

    #[test]
    fn fields_may_be_named_like_keywords() {
        let user = || json!({"$ref": "#/definitions/User"});
        let moved = || json!({"$ref": "#/components/schemas/User"});
        assert_eq!(
            convert(
                json!({"properties": {"default": user(), "$ref": user(), "$id": user(), "properties": user()}})
            ),
            json!({"properties": {"default": moved(), "$ref": moved(), "$id": moved(), "properties": moved()}}),
        );
    }

    #[test]
    fn other_references_are_removed() {
        for elsewhere in [
            "#/definitions/Nobody",
            "#/definitions/User/properties/id",
            "https://example.com/User",
            "#",
            "",
        ] {
            assert_eq!(
                convert(json!({"items": {"$ref": elsewhere}})),
                json!({"items": {}}),
                "{elsewhere}"
            );
        }
        assert_eq!(
            convert(json!({"$id": "https://example.com", "type": "string"})),
            json!({"type": "string"})
        );
    }

    #[test]
    fn data_is_not_changed() {
        let data = json!({"const": {"$ref": "x"}, "enum": [{"$ref": "x"}], "default": {"$ref": "x"}, "examples": [{"$ref": "x"}]});
        assert_eq!(convert(data.clone()), data);
    }

    #[test]
    fn malformed_keywords_are_left_out() {
        for malformed in [
            json!({"items": 7}),
            json!({"items": [true, "a"]}),
            json!({"not": []}),
            json!({"$ref": 1}),
            json!({"oneOf": []}),
            json!({"properties": {"a": 7}}),
            json!({"dependencies": {"a": ["b", "b"]}}),
            json!({"type": "text"}),
            json!({"type": ["null", "null"]}),
            json!({"required": "id"}),
            json!({"required": ["id", "id"]}),
            json!({"enum": []}),
            json!({"enum": [1, 1]}),
            json!({"minimum": "0"}),
            json!({"multipleOf": 0}),
            json!({"maxLength": -1}),
            json!({"uniqueItems": 1}),
            json!({"title": null}),
        ] {
            let within = |schema: Value| json!({"items": schema, "minItems": 1});
            assert_eq!(convert(within(malformed)), within(json!({})));
        }
        let well_formed = json!({
            "dependencies": {"a": ["b"], "b": {"type": ["null", "string"]}},
            "items": [true, {}],
            "required": [],
            "multipleOf": 0.5,
            "x": [7],
        });
        assert_eq!(convert(well_formed.clone()), well_formed);
    }

    #[test]
    fn a_value_that_is_not_a_schema_becomes_one_of_any_value() {
        for none in [json!(null), json!(7), json!("type"), json!([])] {
            assert_eq!(convert(none), json!({}));
        }
        assert_eq!(convert(json!(false)), json!(false));
    }
}
