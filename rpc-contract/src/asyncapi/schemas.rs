//! The schemas of a document: with titles, and in the forms that other tools understand best.
//!
//! Generators of code name a class after the title of its schema. Without a title, they name it
//! after its place, or make no class. So every type with fields or texts of its own has a unique
//! title.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::keywords::{self, Keywords};
use crate::names::{Scope, pascal};
use crate::references::{DocumentKeys, convert_schema};

/// Makes the schemas of a document.
pub(super) struct Schemas<'a> {
    definitions: &'a BTreeMap<String, Value>,
    keys: DocumentKeys,
    titles: Scope,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(definitions: &'a BTreeMap<String, Value>) -> Self {
        Self {
            definitions,
            keys: DocumentKeys::new(definitions.keys().map(String::as_str)),
            titles: Scope::new(&[]),
        }
    }

    /// Returns a name for a class, made of `name`, that no other class gets.
    pub(super) fn take_name(&mut self, name: &str) -> String {
        self.titles.add(pascal(name, "Type"))
    }

    /// Returns the document's schemas of named types. Must be called first: all named types take
    /// their titles before any type within them or within a message does.
    pub(super) fn definitions(&mut self) -> Map<String, Value> {
        let keys: Vec<_> = self.keys.in_order().map(str::to_owned).collect();
        let mut schemas: Vec<_> = self
            .definitions
            .values()
            .map(|schema| self.convert(schema))
            .collect();
        for (name, schema) in self.definitions.keys().zip(&mut schemas) {
            if let Some(object) = keywords_unless_reference(schema) {
                self.title(object, name);
            }
        }
        // No name is needed: each schema with parts has a title now, unless it is a reference.
        schemas.iter_mut().for_each(|schema| self.title_parts(schema, ""));
        keys.into_iter().zip(schemas).collect()
    }

    /// Returns the document's schema of a value. A type without a title gets one that begins with
    /// `name`, or with the title of the type around it.
    pub(super) fn value(&mut self, schema: &Value, name: &str) -> Value {
        let mut schema = self.convert(schema);
        self.title_all(&mut schema, name);
        schema
    }

    /// Returns the document's schema of a message's body. Its title is `name`, which
    /// [`take_name`](Self::take_name) has returned, unless it is a reference to a named type.
    pub(super) fn body(&mut self, schema: &Value, name: &str) -> Value {
        let mut schema = self.convert(schema);
        if let Some(object) = keywords_unless_reference(&mut schema) {
            object.insert("title".to_owned(), json!(name));
        }
        self.title_parts(&mut schema, name);
        schema
    }

    fn convert(&self, schema: &Value) -> Value {
        let mut schema = convert_schema(schema, &self.keys);
        simplify(&mut schema);
        schema
    }

    /// Gives a schema a unique title, made of its own title if it has one, else of `name`. Its own
    /// title stays as it is, unless another schema has the same name of a class.
    fn title(&mut self, object: &mut Keywords, name: &str) {
        let own = keywords::text(object.get("title"));
        let wanted = pascal(own.unwrap_or(name), "Type");
        let title = self.titles.add(wanted.clone());
        if own.is_none() || title != wanted {
            object.insert("title".to_owned(), json!(title));
        }
    }

    /// Gives titles to a schema and those within it, if generators make classes of them.
    fn title_all(&mut self, schema: &mut Value, name: &str) {
        if let Some(object) = schema.as_object_mut().filter(|object| is_class(object)) {
            self.title(object, name);
        }
        self.title_parts(schema, name);
    }

    /// Gives titles to the schemas within one. They begin with the title of that schema, or with
    /// `name` if it has none.
    fn title_parts(&mut self, schema: &mut Value, name: &str) {
        let Some(object) = schema.as_object_mut() else {
            return;
        };
        let name = keywords::text(object.get("title")).unwrap_or(name).to_owned();
        for (part, position) in parts(object) {
            self.title_part(part, position, &name);
        }
    }

    fn title_part(&mut self, part: &mut Value, position: Position, name: &str) {
        match position {
            // It is no class of its own.
            Position::Merged => self.title_parts(part, name),
            Position::Itself => self.title_all(part, name),
            Position::Field(place) | Position::Within(place) => {
                self.title_all(part, &format!("{name} {place}"));
            }
            Position::Variant(place) => self.title_variant(part, &format!("{name} {place}")),
        }
    }

    /// Gives titles to a variant of an enum and to the schemas within it.
    ///
    /// An externally tagged variant, `{"Round": content}`, is named after its only field. The
    /// content is then titled `ShapeRoundContent`, because `ShapeRoundRound` would say the name
    /// twice.
    fn title_variant(&mut self, schema: &mut Value, name: &str) {
        let Some(object) = schema.as_object_mut() else {
            return;
        };
        let is_external = has_content_as_only_field(object);
        if is_class(object) {
            self.title(object, name);
        }
        let name = keywords::text(object.get("title")).unwrap_or(name).to_owned();
        for (part, position) in parts(object) {
            let position = match position {
                Position::Field(_) if is_external => Position::Field("content".to_owned()),
                other => other,
            };
            self.title_part(part, position, &name);
        }
    }
}

/// Returns the keywords of a schema. `None` if it is a reference, as a keyword beside `$ref` has no
/// meaning.
fn keywords_unless_reference(schema: &mut Value) -> Option<&mut Keywords> {
    schema
        .as_object_mut()
        .filter(|object| !object.contains_key("$ref"))
}

/// Whether a variant has one field, which is not a tag.
fn has_content_as_only_field(variant: &Keywords) -> bool {
    let fields = variant.get("properties").and_then(Value::as_object);
    fields.is_some_and(|fields| {
        fields.len() == 1 && fields.values().all(|field| keywords::constant(field).is_none())
    })
}

/// Whether generators make a class of a schema.
fn is_class(schema: &Keywords) -> bool {
    let has_fields = schema
        .get("properties")
        .and_then(Value::as_object)
        .is_some_and(|it| !it.is_empty());
    has_fields || schema.contains_key("enum")
}

/// How a schema is contained in another, with a name for it there if it needs one.
enum Position {
    /// Its keywords add to those of the other: it is one of `allOf`.
    Merged,
    /// It describes the same value: it is the only alternative, or the only one beside `null`, or
    /// that `null`.
    Itself,
    /// It is one of several alternatives, at least two of which are not `null`.
    Variant(String),
    /// It describes a field.
    Field(String),
    /// It describes an item, or a value of a map.
    Within(String),
}

/// Returns the schemas directly within one, except those of keywords from which generators make no
/// types, such as `not`.
fn parts(object: &mut Keywords) -> Vec<(&mut Value, Position)> {
    let mut parts = Vec::new();
    for (keyword, value) in object {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                parts.extend(
                    fields
                        .iter_mut()
                        .map(|(name, field)| (field, Position::Field(name.clone()))),
                );
            }
            ("allOf", Value::Array(schemas)) => {
                parts.extend(schemas.iter_mut().map(|schema| (schema, Position::Merged)));
            }
            ("anyOf" | "oneOf", Value::Array(schemas)) => {
                let has_several = schemas.iter().filter(|schema| !keywords::is_null(schema)).count() > 1;
                let numbered = schemas.iter_mut().zip(1..);
                parts.extend(numbered.map(|(schema, number)| {
                    let position = if has_several {
                        Position::Variant(variant_name(schema).unwrap_or_else(|| number.to_string()))
                    } else {
                        Position::Itself
                    };
                    (schema, position)
                }));
            }
            ("items", Value::Array(schemas)) => {
                let numbered = schemas.iter_mut().zip(1..);
                parts.extend(numbered.map(|(schema, number)| (schema, Position::Within(number.to_string()))));
            }
            ("items", schema) => parts.push((schema, Position::Within("item".to_owned()))),
            ("additionalProperties", schema) => parts.push((schema, Position::Within("value".to_owned()))),
            _ => {}
        }
    }
    parts
}

/// Returns the name of a variant: the text of its tag, or the name of its only field. `None` if it
/// has neither.
fn variant_name(schema: &Value) -> Option<String> {
    let fields = schema.get("properties")?.as_object()?;
    let tag = fields.values().find_map(keywords::constant);
    let first_field = fields.keys().next().map(String::as_str);
    let only_field = first_field.filter(|_| fields.len() == 1);
    tag.or(only_field).map(str::to_owned)
}

/// Rewrites a schema, and those within it, in an equivalent form from which generators make better
/// types.
fn simplify(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    join_texts(object);
    close_tuple(object);
    use_additional_properties(object);
    refer_to_only_part(object);
    parts(object).into_iter().for_each(|(part, _)| simplify(part));
}

/// Replaces alternatives, all of which are fixed texts, by an `enum` of these texts.
fn join_texts(object: &mut Keywords) {
    // A second one of these keywords would restrict the texts further.
    let mut lists = ["allOf", "anyOf", "enum", "oneOf"]
        .into_iter()
        .filter(|keyword| object.contains_key(*keyword));
    let (Some(keyword @ ("anyOf" | "oneOf")), None) = (lists.next(), lists.next()) else {
        return;
    };
    let alternatives = object.get(keyword).and_then(Value::as_array);
    let Some(texts) = alternatives.and_then(|alternatives| distinct_texts(alternatives)) else {
        return;
    };
    let own_docs = keywords::text(object.get("description")).unwrap_or_default();
    let docs = docs_with_texts(own_docs, &texts);
    let texts: Vec<_> = texts.iter().map(|(text, _)| json!(text)).collect();
    object.remove(keyword);
    object.insert("type".to_owned(), json!("string"));
    object.insert("enum".to_owned(), json!(texts));
    if !docs.is_empty() {
        object.insert("description".to_owned(), json!(docs));
    }
}

/// Returns the texts that alternatives allow, with their docs. `None` if there are none, if
/// anything else is allowed, or if a text occurs twice, which an `enum` may not have.
fn distinct_texts(alternatives: &[Value]) -> Option<Vec<(&str, &str)>> {
    if !alternatives.iter().all(has_only_keywords_of_texts) {
        return None;
    }
    let texts: Option<Vec<_>> = alternatives.iter().map(keywords::texts).collect();
    let texts = texts?.concat();
    let distinct: BTreeSet<_> = texts.iter().map(|(text, _)| text).collect();
    (!texts.is_empty() && distinct.len() == texts.len()).then_some(texts)
}

/// Returns a type's own docs, followed by those of its texts, which an `enum` has no place for.
/// Each text comes with its docs, which may be empty.
fn docs_with_texts(own_docs: &str, texts: &[(&str, &str)]) -> String {
    let documented = texts.iter().filter(|(_, docs)| !docs.is_empty());
    let list: Vec<_> = documented
        .map(|(text, docs)| format!("- `{text}`: {docs}"))
        .collect();
    let parts = [own_docs.to_owned(), list.join("\n")];
    let parts: Vec<_> = parts.into_iter().filter(|docs| !docs.is_empty()).collect();
    parts.join("\n\n")
}

/// Whether a schema has no keywords but those of fixed texts. It may still allow other values:
/// [`keywords::texts`] checks that.
fn has_only_keywords_of_texts(schema: &Value) -> bool {
    let known = ["const", "description", "enum", "title", "type"];
    schema.as_object().is_some_and(|object| {
        object.keys().all(|keyword| known.contains(&keyword.as_str()))
            && object.get("type").is_none_or(|it| it == "string")
    })
}

/// Says explicitly that a tuple, which has a schema for each item, has no further items, if its
/// `maxItems` says so.
fn close_tuple(object: &mut Keywords) {
    let items = object.get("items").and_then(Value::as_array).map(Vec::len);
    let max = object.get("maxItems").and_then(Value::as_u64);
    if let (Some(items), Some(max)) = (items, max)
        && items as u64 >= max
    {
        object.entry("additionalItems").or_insert(json!(false));
    }
}

/// Replaces an `allOf` of one schema by an `anyOf`, which means the same, if the schema around it
/// adds only annotations such as documentation. Generators copy the parts of an `allOf` into a new
/// type, but use the type of the only part of an `anyOf`.
fn refer_to_only_part(object: &mut Keywords) {
    let known = [
        "allOf",
        "default",
        "deprecated",
        "description",
        "examples",
        "title",
    ];
    let is_only = object
        .get("allOf")
        .and_then(Value::as_array)
        .is_some_and(|parts| parts.len() == 1);
    if is_only
        && object.keys().all(|keyword| known.contains(&keyword.as_str()))
        && let Some(only) = object.remove("allOf")
    {
        object.insert("anyOf".to_owned(), only);
    }
}

/// Replaces the `patternProperties` of a map, whose keys all match one pattern, by the equivalent
/// `additionalProperties` and `propertyNames`. Generators recognize maps by
/// `additionalProperties`.
fn use_additional_properties(object: &mut Keywords) {
    let values = object.get("patternProperties").and_then(Value::as_object);
    let Some((pattern, value)) = values.filter(|it| it.len() == 1).and_then(|it| it.iter().next()) else {
        return;
    };
    let (pattern, value) = (pattern.clone(), value.clone());
    let is_closed = object.get("additionalProperties") == Some(&Value::Bool(false));
    if is_closed && !object.contains_key("properties") && !object.contains_key("propertyNames") {
        object.remove("patternProperties");
        object.insert("additionalProperties".to_owned(), value);
        object.insert("propertyNames".to_owned(), json!({"pattern": pattern}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simplified(mut schema: Value) -> Value {
        simplify(&mut schema);
        schema
    }

    #[test]
    fn alternatives_that_are_texts_are_an_enum() {
        let schema = json!({"description": "A color.", "oneOf": [
            {"const": "red", "type": "string", "description": "Warm."}, {"enum": ["green", "blue"], "type": "string"},
        ]});
        let expected = json!({"description": "A color.\n\n- `red`: Warm.", "type": "string", "enum": ["red", "green", "blue"]});
        assert_eq!(simplified(schema), expected);
        for others in [
            json!({"oneOf": [{"const": "a"}, {"type": "string"}]}),
            json!({"oneOf": [{"const": "a"}, {"const": 1}]}),
            json!({"oneOf": [{"const": "a"}, {"const": "a"}]}),
            json!({"oneOf": [{"const": "a", "minLength": 1}]}),
            json!({"oneOf": [{"const": "a"}], "anyOf": [{}]}),
            json!({"oneOf": [{"const": "a"}], "enum": ["a"]}),
        ] {
            assert_eq!(simplified(others.clone()), others);
        }
    }

    #[test]
    fn a_tuple_has_no_other_items() {
        let tuple = |max: u64| json!({"items": [{}, {}], "minItems": 1, "maxItems": max});
        assert_eq!(simplified(tuple(2))["additionalItems"], false);
        assert_eq!(simplified(tuple(3)), tuple(3));
        let list = json!({"items": {}, "maxItems": 2});
        assert_eq!(simplified(list.clone()), list);
    }

    #[test]
    fn the_only_part_of_a_documented_schema_is_an_alternative() {
        let part = json!({"$ref": "#/components/schemas/Role"});
        assert_eq!(
            simplified(json!({"allOf": [part], "default": "guest"})),
            json!({"anyOf": [part], "default": "guest"})
        );
        for others in [
            json!({"allOf": [part, part]}),
            json!({"allOf": [part], "properties": {}}),
            json!({"allOf": [part], "anyOf": [{}]}),
        ] {
            assert_eq!(simplified(others.clone()), others);
        }
    }

    #[test]
    fn a_map_with_a_pattern_for_its_keys_has_additional_properties() {
        let map =
            json!({"patternProperties": {"^[0-9]+$": {"type": "string"}}, "additionalProperties": false});
        let expected =
            json!({"additionalProperties": {"type": "string"}, "propertyNames": {"pattern": "^[0-9]+$"}});
        assert_eq!(simplified(map), expected);
        for others in [
            json!({"patternProperties": {"a": {}}}),
            json!({"patternProperties": {"a": {}, "b": {}}, "additionalProperties": false}),
            json!({"patternProperties": {"a": {}}, "additionalProperties": false, "properties": {"b": {}}}),
        ] {
            assert_eq!(simplified(others.clone()), others);
        }
    }

    #[test]
    fn types_with_fields_or_texts_have_unique_titles() {
        let fields = || json!({"properties": {"x": {"enum": ["a"]}}});
        let definitions = BTreeMap::from([
            ("Page<User>".to_owned(), fields()),
            (
                "PageUser".to_owned(),
                json!({"title": "A page", "type": "string"}),
            ),
            (
                "Shape".to_owned(),
                json!({"oneOf": [
                    {"properties": {"round": fields()}},
                    {"properties": {"type": {"const": "flat"}, "y": {"items": fields()}}},
                    {"type": "null"},
                    {"items": [fields()]},
                ]}),
            ),
        ]);
        let mut schemas = Schemas::new(&definitions);
        let found = schemas.definitions();
        assert_eq!(found["Page_User_"]["title"], "PageUser");
        assert_eq!(found["Page_User_"]["properties"]["x"]["title"], "PageUserX");
        // Its own.
        assert_eq!(found["PageUser"]["title"], "A page");
        let variants = &found["Shape"]["oneOf"];
        assert_eq!(variants[0]["title"], "ShapeRound");
        assert_eq!(variants[0]["properties"]["round"]["title"], "ShapeRoundContent");
        assert_eq!(variants[1]["title"], "ShapeFlat");
        assert_eq!(variants[1]["properties"]["y"]["items"]["title"], "ShapeFlatYItem");
        assert_eq!(variants[2], json!({"type": "null"}));
        assert_eq!(variants[3]["items"][0]["title"], "Shape41");

        let name = schemas.take_name("get_result");
        let body = schemas.body(&json!({"anyOf": [fields(), {"type": "null"}]}), &name);
        assert_eq!(body["title"], "GetResult");
        assert_eq!(body["anyOf"][0]["title"], "GetResult2");
        let named = schemas.body(&json!({"$ref": "#/definitions/PageUser"}), "GetError");
        assert_eq!(named, json!({"$ref": "#/components/schemas/PageUser"}));
    }

    #[test]
    fn types_in_a_variant_with_one_field_have_titles() {
        let texts = || json!({"enum": ["a", "b"]});
        let tag = || json!({"kind": {"const": "round"}});
        let definitions = BTreeMap::from([
            (
                // An internally tagged variant that holds an enum, and one that holds a map.
                "Shape".to_owned(),
                json!({"oneOf": [
                    {"properties": tag(), "oneOf": [
                        {"properties": {"Wide": {"properties": {"x": texts()}}}},
                        {"properties": {"Narrow": {"type": "string"}}},
                    ]},
                    {"properties": {"kind": {"enum": ["flat"]}}, "additionalProperties": texts()},
                ]}),
            ),
            (
                // Variants with a field and a flattened type.
                "Event".to_owned(),
                json!({"anyOf": [
                    {"properties": {"at": texts()}, "anyOf": [
                        {"properties": {"Began": {"type": "string"}}},
                        {"properties": {"Ended": texts()}},
                    ]},
                    {"properties": {"id": {"type": "string"}}, "allOf": [{"properties": {"y": texts()}}]},
                ]}),
            ),
        ]);
        let found = Value::Object(Schemas::new(&definitions).definitions());
        let title = |pointer: &str| {
            let schema = found.pointer(pointer).unwrap();
            keywords::text(schema.get("title")).unwrap_or_default()
        };
        let variant = "/Shape/oneOf/0";
        assert_eq!(title(variant), "ShapeRound");
        assert_eq!(title(&format!("{variant}/properties/kind")), "");
        assert_eq!(title(&format!("{variant}/oneOf/0")), "ShapeRoundWide");
        assert_eq!(
            title(&format!("{variant}/oneOf/0/properties/Wide")),
            "ShapeRoundWideContent"
        );
        assert_eq!(
            title(&format!("{variant}/oneOf/0/properties/Wide/properties/x")),
            "ShapeRoundWideContentX"
        );
        assert_eq!(title(&format!("{variant}/oneOf/1")), "ShapeRoundNarrow");
        assert_eq!(title("/Shape/oneOf/1/properties/kind"), "ShapeFlatKind");
        assert_eq!(title("/Shape/oneOf/1/additionalProperties"), "ShapeFlatValue");
        assert_eq!(title("/Event/anyOf/0/properties/at"), "EventAtContent");
        assert_eq!(title("/Event/anyOf/0/anyOf/0"), "EventAtBegan");
        assert_eq!(
            title("/Event/anyOf/0/anyOf/1/properties/Ended"),
            "EventAtEndedContent"
        );
        assert_eq!(title("/Event/anyOf/1/allOf/0/properties/y"), "EventIdY");
    }
}
