//! References among JSON Schemas: from where a description has its definitions to where a document has them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Where a description has its definitions.
const DEFINITIONS: &str = "#/definitions/";

/// The keywords whose value is data and no schema.
const DATA: [&str; 4] = ["const", "default", "enum", "examples"];

/// The keywords whose value is a map from names to schemas.
const BY_NAME: [&str; 4] = ["definitions", "dependencies", "patternProperties", "properties"];

/// Names as keys of a document: letters, digits, `.`, `-` and `_`, each key once.
pub(super) struct Names {
    in_order: Vec<String>,
    by_name: BTreeMap<String, usize>,
}

impl Names {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut keys = Keys::default();
        let mut all = Self {
            in_order: Vec::new(),
            by_name: BTreeMap::new(),
        };
        for name in names {
            let key = keys.unique(plain(name));
            all.by_name.entry(name.to_owned()).or_insert(all.in_order.len());
            all.in_order.push(key);
        }
        all
    }

    /// The keys, in the order in which their names were given.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &str> {
        self.in_order.iter().map(String::as_str)
    }

    fn key(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(|&index| self.in_order[index].as_str())
    }
}

fn plain(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') => c,
        _ => '_',
    };
    match name {
        "" => "_".to_owned(),
        name => name.chars().map(plain).collect(),
    }
}

/// The keys that are given, and the number that the next of the same name gets.
#[derive(Default)]
struct Keys {
    taken: BTreeSet<String>,
    numbers: BTreeMap<String, usize>,
}

impl Keys {
    fn unique(&mut self, key: String) -> String {
        let number = self.numbers.entry(key.clone()).or_insert(1);
        let mut candidate = key.clone();
        while !self.taken.insert(candidate.clone()) {
            *number += 1;
            candidate = format!("{key}_{number}");
        }
        candidate
    }
}

/// The name in a description's definitions that a `$ref` is for.
pub(super) fn definition(reference: &str) -> Option<String> {
    let pointer = reference.strip_prefix(DEFINITIONS)?;
    Some(pointer.replace("~1", "/").replace("~0", "~"))
}

/// A description's schema as a document has it, whose definitions are its `components`. What is no schema, or refers to none of these,
/// may be anything.
pub(super) fn within_document(schema: &Value, names: &Names) -> Value {
    match schema {
        Value::Bool(_) => schema.clone(),
        Value::Object(object) => moved(object, names),
        _ => Value::Object(Map::new()),
    }
}

fn moved(object: &Map<String, Value>, names: &Names) -> Value {
    let mut moved = Map::new();
    for (keyword, value) in object {
        let value = match (keyword.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                let Some(key) = definition(reference).and_then(|name| names.key(&name).map(str::to_owned))
                else {
                    return Value::Object(Map::new());
                };
                Value::String(format!("#/components/schemas/{key}"))
            }
            // Where a schema has an identity of its own, its references would be relative to that.
            ("$id" | "$schema", _) => continue,
            (keyword, value) if DATA.contains(&keyword) => value.clone(),
            (keyword, Value::Object(schemas)) if BY_NAME.contains(&keyword) => {
                let schemas = schemas.iter();
                schemas
                    .map(|(name, schema)| (name.clone(), each(schema, names)))
                    .collect()
            }
            (_, value) => each(value, names),
        };
        moved.insert(keyword.clone(), value);
    }
    Value::Object(moved)
}

fn each(value: &Value, names: &Names) -> Value {
    match value {
        Value::Object(object) => moved(object, names),
        Value::Array(values) => values.iter().map(|value| each(value, names)).collect(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn within(schema: Value) -> Value {
        within_document(&schema, &Names::new(["User", "Page<User>", "a/b"].into_iter()))
    }

    #[test]
    fn names_become_keys_each_of_them_once() {
        let names = Names::new(["get", "a b", "a/b", "a_b", "", "ü", "get"].into_iter());
        let keys: Vec<_> = names.in_order().collect();
        assert_eq!(keys, ["get", "a_b", "a_b_2", "a_b_3", "_", "__2", "get_2"]);
    }

    #[test]
    fn references_follow_their_definitions() {
        assert_eq!(
            within(
                json!({"items": [{"$ref": "#/definitions/User"}, {"$ref": "#/definitions/Page<User>"}], "not": {"$ref": "#/definitions/a~1b"}})
            ),
            json!({"items": [{"$ref": "#/components/schemas/User"}, {"$ref": "#/components/schemas/Page_User_"}], "not": {"$ref": "#/components/schemas/a_b"}}),
        );
    }

    #[test]
    fn fields_may_be_named_like_keywords() {
        let user = || json!({"$ref": "#/definitions/User"});
        let moved = || json!({"$ref": "#/components/schemas/User"});
        assert_eq!(
            within(
                json!({"properties": {"default": user(), "$ref": user(), "$id": user(), "properties": user()}})
            ),
            json!({"properties": {"default": moved(), "$ref": moved(), "$id": moved(), "properties": moved()}}),
        );
    }

    #[test]
    fn references_elsewhere_are_left_out() {
        for elsewhere in [
            "#/definitions/Nobody",
            "#/definitions/User/properties/id",
            "https://example.com/User",
            "#",
            "",
        ] {
            assert_eq!(
                within(json!({"items": {"$ref": elsewhere}})),
                json!({"items": {}}),
                "{elsewhere}"
            );
        }
        assert_eq!(
            within(json!({"$id": "https://example.com", "type": "string"})),
            json!({"type": "string"})
        );
    }

    #[test]
    fn data_stays_as_it_is() {
        let data = json!({"const": {"$ref": "x"}, "enum": [{"$ref": "x"}], "default": {"$ref": "x"}, "examples": [{"$ref": "x"}]});
        assert_eq!(within(data.clone()), data);
    }

    #[test]
    fn what_is_no_schema_may_be_anything() {
        for none in [json!(null), json!(7), json!("type"), json!([])] {
            assert_eq!(within(none), json!({}));
        }
        assert_eq!(within(json!(false)), json!(false));
    }
}
