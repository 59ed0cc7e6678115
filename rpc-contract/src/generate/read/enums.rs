//! Reads the schemas of enums, and recognizes which of serde's representations they have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::model::{Alternative, Content, Field, Shape, Tagging, Unit, Variant};
use super::named::Reader;
use crate::definition_name;
use crate::keywords::{self, Keywords};

/// Names that suggest that a field beside a tag holds a variant's content: see
/// [`find_adjacent_content`].
const CONTENT: [&str; 9] = [
    "args", "c", "content", "contents", "data", "params", "payload", "v", "value",
];

/// The limit on references to follow to one struct.
const MAX_REFERENCES: usize = 16;

/// Returns the names and the documentation of an enum's variants, if the schema is that of an enum
/// of units.
pub(super) fn texts_of_units(schema: &Value) -> Option<Vec<(&str, &str)>> {
    let object = schema.as_object().filter(|object| !object.contains_key("$ref"))?;
    if let Some(texts) = keywords::texts(schema) {
        return Some(texts);
    }
    let alternatives = keywords::alternatives(object)?;
    let texts: Option<Vec<_>> = alternatives.iter().map(texts_of_alternative).collect();
    Some(texts?.concat())
}

fn texts_of_alternative(alternative: &Value) -> Option<Vec<(&str, &str)>> {
    keywords::texts(alternative).filter(|_| alternative.get("$ref").is_none())
}

/// Returns the shape of an enum of units, given their names and documentation. Of several with the
/// same name, the first counts.
pub(super) fn units(texts: &[(&str, &str)]) -> Shape {
    let mut names = BTreeSet::new();
    let texts = texts.iter().filter(|(name, _)| names.insert(*name));
    Shape::Units(texts.map(|&(name, docs)| unit(name, docs)).collect())
}

fn unit(name: &str, docs: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        docs: docs.to_owned(),
    }
}

struct FoundVariant<'a> {
    name: &'a str,
    docs: &'a str,
    /// The schema of the content, if there is any. With an internal tag, it is that of the whole
    /// variant, with the tag.
    content: Option<&'a Value>,
}

impl Reader<'_> {
    /// Reads the shape of an enum with these alternatives. Returns `None` if they are not an enum:
    /// `null` only, a type that may be `null`, or only a reference to a type.
    pub(super) fn enumeration(&mut self, alternatives: &[Value], name: &str, depth: usize) -> Option<Shape> {
        let is_nothing = alternatives.iter().all(keywords::is_null);
        let is_optional = alternatives.len() == 2 && alternatives.iter().any(keywords::is_null);
        let is_reference = alternatives.len() == 1 && alternatives[0].get("$ref").is_some();
        if is_nothing || is_optional || is_reference {
            return None;
        }
        if let Some(found) = find_external(alternatives) {
            return Some(self.variants(Tagging::External, &found, name, depth));
        }
        if let Some((tag, found)) = find_tagged(alternatives) {
            if let Some(content) = find_adjacent_content(tag, alternatives) {
                let found = found.into_iter().map(|variant| FoundVariant {
                    content: variant
                        .content
                        .and_then(|whole| whole.get("properties")?.get(content)),
                    ..variant
                });
                let (tag, content) = (tag.to_owned(), content.to_owned());
                let tagging = Tagging::Adjacent { tag, content };
                return Some(self.variants(tagging, &found.collect::<Vec<_>>(), name, depth));
            }
            if let Some(shape) = self.internal(tag, &found, name, depth) {
                return Some(shape);
            }
        }
        Some(self.untagged(alternatives, name, depth))
    }

    /// Reads an enum with external or adjacent tags. Of several variants with the same name, the
    /// first counts.
    fn variants(&mut self, tagging: Tagging, found: &[FoundVariant<'_>], name: &str, depth: usize) -> Shape {
        let mut names = BTreeSet::new();
        let found = found.iter().filter(|found| names.insert(found.name));
        let variants = found.map(|found| Variant {
            name: found.name.to_owned(),
            docs: found.docs.to_owned(),
            content: match found.content {
                None => Content::Unit,
                Some(content) => self.content(content, &format!("{name} {}", found.name), depth),
            },
        });
        Shape::Enum(tagging, variants.collect())
    }

    /// Reads the content of a variant or an alternative. Fields that the schema itself lists become
    /// those of the variant, without a type of their own.
    fn content(&mut self, schema: &Value, context: &str, depth: usize) -> Content {
        match schema.as_object() {
            Some(object) if is_struct(object) => Content::Fields(self.fields(object, context, depth)),
            _ => Content::Value(self.ty(schema, None, context, depth.saturating_sub(1))),
        }
    }

    /// Reads an enum with an internal tag. `None` if the fields of a variant cannot be listed.
    fn internal(&mut self, tag: &str, found: &[FoundVariant<'_>], name: &str, depth: usize) -> Option<Shape> {
        let mut names = BTreeSet::new();
        let mut variants = Vec::new();
        for found in found.iter().filter(|found| names.insert(found.name)) {
            let context = format!("{name} {}", found.name);
            let fields = self.all_fields_but(tag, found.content?, &context, depth)?;
            variants.push(Variant {
                name: found.name.to_owned(),
                docs: found.docs.to_owned(),
                content: match fields.is_empty() {
                    true => Content::Unit,
                    false => Content::Fields(fields),
                },
            });
        }
        let tag = tag.to_owned();
        Some(Shape::Enum(Tagging::Internal { tag }, variants))
    }

    /// Lists the fields of a schema and of the parts of its `allOf`, but not the tag. A part that
    /// is not a struct adds none. `None` if there are alternatives, or if a part cannot be read.
    fn all_fields_but(
        &mut self,
        tag: &str,
        schema: &Value,
        context: &str,
        depth: usize,
    ) -> Option<Vec<Field>> {
        let object = schema.as_object().filter(|_| self.take_step())?;
        let depth = depth.checked_sub(1)?;
        let mut fields = self.fields_but(Some(tag), object, context, depth);
        if let Some(parts) = object.get("allOf") {
            for part in parts.as_array()? {
                let part = self.resolved(part)?;
                fields.extend(self.all_fields_but(tag, part, context, depth)?);
            }
        }
        if object.contains_key("oneOf") || object.contains_key("anyOf") {
            return None;
        }
        let mut names = BTreeSet::new();
        fields.retain(|field| names.insert(field.name.clone()));
        Some(fields)
    }

    /// Follows references to a schema. `None` if one leads nowhere, or if there are too many.
    fn resolved<'v>(&self, mut schema: &'v Value) -> Option<&'v Value>
    where
        Self: 'v,
    {
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = schema.get("$ref") else {
                return Some(schema);
            };
            schema = self.definitions.get(&definition_name(reference.as_str()?)?)?;
        }
        None
    }

    /// Reads an enum without tags: any list of alternatives is one.
    fn untagged(&mut self, alternatives: &[Value], name: &str, depth: usize) -> Shape {
        let alternative = |(schema, index): (&Value, usize)| {
            let own = alternative_name(schema).unwrap_or_else(|| index.to_string());
            let context = format!("{name} {own}");
            Alternative {
                name: own,
                docs: keywords::docs(schema),
                content: if keywords::is_null(schema) {
                    Content::Unit
                } else {
                    self.content(schema, &context, depth)
                },
            }
        };
        Shape::Untagged(alternatives.iter().zip(1..).map(alternative).collect())
    }
}

/// Returns a name for an alternative: its title, or the name of its first field.
fn alternative_name(schema: &Value) -> Option<String> {
    let title = keywords::text(schema.get("title"));
    let first_field = || Some(keywords::fields(schema.as_object()?)?.first()?.0);
    title.or_else(first_field).map(str::to_owned)
}

/// Whether a schema has fields, and lists all of them itself.
fn is_struct(object: &Keywords) -> bool {
    let has_fields_elsewhere = object.contains_key("$ref") || keywords::is_combined(object);
    object.get("properties").is_some_and(Value::is_object) && !has_fields_elsewhere
}

/// Returns the variants of an enum with external tags: each alternative is the text of a unit
/// variant (`"Point"`), or of several, or an object with the content (`{"Circle": content}`).
/// `None` if an alternative is neither.
fn find_external(alternatives: &[Value]) -> Option<Vec<FoundVariant<'_>>> {
    let mut found = Vec::new();
    for alternative in alternatives {
        match texts_of_alternative(alternative) {
            Some(units) => found.extend(units.into_iter().map(|(name, docs)| FoundVariant {
                name,
                docs,
                content: None,
            })),
            None => found.push(external_with_content(alternative)?),
        }
    }
    Some(found)
}

/// Returns the variant that is a closed object with a single field, which is required and named
/// after the variant.
fn external_with_content(alternative: &Value) -> Option<FoundVariant<'_>> {
    let object = alternative.as_object()?;
    let mut properties = object.get("properties")?.as_object()?.iter();
    let (name, content) = properties.next()?;
    let is_only_field = properties.next().is_none();
    let is_closed = object.get("additionalProperties") == Some(&Value::Bool(false));
    let is_required = keywords::required(object).eq([name.as_str()]);
    (is_only_field && is_closed && is_required).then(|| FoundVariant {
        name,
        docs: keywords::text(object.get("description")).unwrap_or_default(),
        content: Some(content),
    })
}

/// Returns the first field in which each alternative requires a different text, and the
/// alternatives as variants with these names. `None` if there is no such field.
fn find_tagged(alternatives: &[Value]) -> Option<(&str, Vec<FoundVariant<'_>>)> {
    let first = alternatives.first()?.get("properties")?.as_object()?;
    let tag = first.keys().find(|field| {
        let names = alternatives.iter().map(|it| required_constant(it, field));
        let names: Option<BTreeSet<_>> = names.collect();
        names.is_some_and(|names| names.len() == alternatives.len())
    })?;
    let found = alternatives.iter().filter_map(|alternative| {
        Some(FoundVariant {
            name: required_constant(alternative, tag)?,
            docs: keywords::text(alternative.get("description")).unwrap_or_default(),
            content: Some(alternative),
        })
    });
    Some((tag, found.collect()))
}

/// Returns the only text that a field may have, if the field is required.
fn required_constant<'a>(alternative: &'a Value, field: &str) -> Option<&'a str> {
    let object = alternative.as_object()?;
    let property = object.get("properties")?.get(field)?;
    keywords::constant(property).filter(|_| keywords::is_required(object, field))
}

/// Returns the name of the field beside the tag that holds the content of each variant that has
/// any. `None` if there is no such field.
///
/// If the field has the same schema wherever it is, it may as well be a field of variants with
/// internal tags, whose schemas look the same. Then its name decides.
fn find_adjacent_content<'a>(tag: &str, alternatives: &'a [Value]) -> Option<&'a str> {
    let mut content = None;
    let mut schemas = BTreeSet::new();
    for alternative in alternatives {
        let object = alternative
            .as_object()
            .filter(|object| !keywords::is_combined(object))?;
        let fields = object.get("properties")?.as_object()?.iter();
        let mut fields_beside_tag = fields.filter(|(name, _)| *name != tag);
        let Some((name, schema)) = fields_beside_tag.next() else {
            continue;
        };
        let has_further_field = fields_beside_tag.next().is_some();
        if has_further_field || content.is_some_and(|content| content != name) {
            return None;
        }
        content = Some(name);
        schemas.insert(without_docs(schema));
    }
    let content = content?;
    let have_different_schemas = schemas.len() > 1;
    (have_different_schemas || CONTENT.contains(&content.as_str())).then_some(content)
}

fn without_docs(schema: &Value) -> String {
    match schema {
        Value::Object(object) => {
            let mut object = object.clone();
            object.remove("description");
            Value::Object(object).to_string()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::model::{Int, Type, Types};
    use super::*;
    use crate::ServiceDescription;

    fn read_with(schema: Value, definitions: Value) -> (Shape, Types) {
        let description = ServiceDescription {
            definitions: serde_json::from_value(definitions).unwrap(),
            ..ServiceDescription::default()
        };
        let mut reader = Reader::new(&description);
        let shape = reader.shape(&schema, "It");
        (shape, reader.finish())
    }

    fn read(schema: Value) -> Shape {
        read_with(schema, json!({})).0
    }

    /// Returns the tagging, and each variant: `name`, `name=` for a value, `name{fields}`.
    fn variants(shape: &Shape) -> (&Tagging, Vec<String>) {
        let Shape::Enum(tagging, variants) = shape else {
            panic!("{shape:?}");
        };
        let variants = variants.iter().map(|variant| match &variant.content {
            Content::Unit => variant.name.clone(),
            Content::Value(_) => format!("{}=", variant.name),
            Content::Fields(fields) => {
                let fields: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
                format!("{}{{{}}}", variant.name, fields.join(" "))
            }
        });
        (tagging, variants.collect())
    }

    fn outside(name: &str, content: Value) -> Value {
        json!({"type": "object", "properties": {name: content}, "required": [name], "additionalProperties": false})
    }

    fn fields(names: &[(&str, Value)]) -> Value {
        let properties: serde_json::Map<_, _> = names
            .iter()
            .map(|(name, it)| ((*name).to_owned(), it.clone()))
            .collect();
        let required: Vec<_> = names.iter().map(|(name, _)| name).collect();
        json!({"type": "object", "properties": properties, "required": required})
    }

    #[test]
    fn the_variants_name_may_be_outside() {
        let shape = read(json!({"oneOf": [
            {"type": "string", "enum": ["a", "b"]},
            {"const": "c", "description": "C."},
            outside("d", json!({"type": "string"})),
            outside("e", fields(&[("x", json!({"type": "string"}))])),
            outside("f", json!({"type": "null"})),
        ]}));
        let (tagging, variants) = variants(&shape);
        assert_eq!(*tagging, Tagging::External);
        assert_eq!(variants, ["a", "b", "c", "d=", "e{x}", "f="]);
    }

    #[test]
    fn the_variants_name_may_be_a_field() {
        let tag = |name: &str| ("kind", json!({"const": name}));
        let mut joined = fields(&[tag("joined")]);
        joined["allOf"] = json!([{"$ref": "#/definitions/Position"}]);
        let position = fields(&[
            ("x", json!({"type": "integer"})),
            ("y", json!({"type": "integer"})),
        ]);
        let schema = json!({"oneOf": [
            fields(&[tag("started")]), joined, fields(&[("by", json!({"type": "string"})), tag("moved")]),
        ]});
        let (shape, types) = read_with(schema, json!({"Position": position}));
        let (tagging, variants) = variants(&shape);
        assert_eq!(
            *tagging,
            Tagging::Internal {
                tag: "kind".to_owned()
            }
        );
        assert_eq!(variants, ["started", "joined{x y}", "moved{by}"]);
        // Neither the tag nor the struct are types of their own.
        assert!(types.named().is_empty(), "{types:?}");
    }

    #[test]
    fn the_content_may_be_a_field_too() {
        let tag = |name: &str| ("t", json!({"const": name}));
        let adjacent = |name: &str, contents: &[Value]| {
            let content = |(content, index): (&Value, usize)| {
                fields(&[tag(&index.to_string()), (name, content.clone())])
            };
            let mut alternatives: Vec<_> = contents.iter().zip(1..).map(content).collect();
            alternatives.push(fields(&[tag("none")]));
            read(json!({"oneOf": alternatives}))
        };
        let shape = adjacent("x", &[json!({"type": "string"}), fields(&[("y", json!(true))])]);
        let (tagging, found) = variants(&shape);
        let (tag, content) = ("t".to_owned(), "x".to_owned());
        assert_eq!(*tagging, Tagging::Adjacent { tag, content });
        assert_eq!(found, ["1=", "2{y}", "none"]);
        // A single field is taken for a content if it is named like one.
        let text = json!({"type": "string"});
        assert!(matches!(
            variants(&adjacent("c", std::slice::from_ref(&text))).0,
            Tagging::Adjacent { .. }
        ));
        assert!(matches!(
            variants(&adjacent("x", &[text])).0,
            Tagging::Internal { .. }
        ));
    }

    #[test]
    fn other_alternatives_have_no_tag() {
        let shape = read(json!({"anyOf": [
            {"type": "integer"}, {"type": "null"}, {"properties": {"a": true, "b": true}}, {"title": "Named", "properties": {"a": true}},
        ]}));
        let Shape::Untagged(alternatives) = shape else {
            panic!("{shape:?}");
        };
        let names: Vec<_> = alternatives.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["1", "2", "a", "Named"]);
        let integer = Type::Int(Int {
            bits: 64,
            is_signed: true,
        });
        assert_eq!(alternatives[0].content.value(), Some(&integer));
        assert!(matches!(alternatives[1].content, Content::Unit));
        assert!(matches!(&alternatives[2].content, Content::Fields(fields) if fields.len() == 2));
    }

    #[test]
    fn an_enum_of_texts_has_units() {
        for schema in [
            json!({"enum": ["a", "b", "a"]}),
            json!({"oneOf": [{"const": "a"}, {"enum": ["b"]}, {"const": "b"}]}),
        ] {
            let shape = read(schema);
            assert!(
                matches!(&shape, Shape::Units(units) if units.len() == 2),
                "{shape:?}"
            );
        }
        // With any other value, it is something else.
        assert!(matches!(read(json!({"enum": ["a", 7]})), Shape::Alias(Type::Any)));
        assert!(matches!(
            read(json!({"oneOf": [{"type": "null"}, {"type": "null"}]})),
            Shape::Alias(Type::Any)
        ));
    }
}
