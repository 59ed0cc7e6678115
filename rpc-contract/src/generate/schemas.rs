//! JSON Schemas of types that are known by their spelling in Rust only.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::model::{Field, Int, Key, Named, Shape, Type, Types};
use super::read;
use crate::ServiceDescription;

/// Returns the description with schemas. If no method has one, they are made from the spelling of
/// the types in Rust.
///
/// A type whose form its name does not tell, such as `User`, refers to a definition that allows any
/// value. A type that stands for any value, or cannot be read, has no schema.
#[must_use]
pub fn with_schemas(description: &ServiceDescription) -> Cow<'_, ServiceDescription> {
    if read::has_schemas(description) {
        return Cow::Borrowed(description);
    }
    let mut description = description.clone();
    let mut spellings = Vec::new();
    each_schema(&mut description, |rust, _| spellings.push(rust.to_owned()));
    let (spelled, types) = read::spelled_types(&spellings);
    let mut schemas = spelled.iter().map(|ty| schema(ty, &types));
    // In the same order as above.
    each_schema(&mut description, |_, schema| *schema = schemas.next().flatten());
    for named in types.named() {
        let definitions = description.definitions.entry(named.name.clone());
        definitions.or_insert_with(|| definition(named, &types));
    }
    Cow::Owned(description)
}

/// Calls `visit` with the spelling and the schema of each type that a method takes, returns or
/// fails with.
fn each_schema(service: &mut ServiceDescription, mut visit: impl FnMut(&str, &mut Option<Value>)) {
    for method in &mut service.methods {
        for argument in &mut method.arguments {
            visit(&argument.type_name, &mut argument.schema);
        }
        visit(&method.returns, &mut method.result_schema);
        if let Some(error) = &method.error {
            visit(error, &mut method.error_schema);
        }
        if let Some(item) = &method.incoming {
            visit(item, &mut method.incoming_schema);
        }
    }
}

/// Returns the schema of a type's JSON form, or `None` for [`Type::Any`].
fn schema(ty: &Type, types: &Types) -> Option<Value> {
    let schema_or_any = |ty| schema(ty, types).unwrap_or_else(|| json!({}));
    Some(match ty {
        Type::Any => return None,
        Type::Bool => json!({"type": "boolean"}),
        Type::Int(int) => integer(*int),
        Type::F32 => json!({"type": "number", "format": "float"}),
        Type::F64 => json!({"type": "number", "format": "double"}),
        Type::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
        Type::Text => json!({"type": "string"}),
        Type::Bytes => json!({
            "type": "array",
            "items": integer(Int { bits: 8, is_signed: false }),
            "format": "bytes",
            "description": "Bytes: `bin` in MessagePack, numbers in JSON.",
        }),
        Type::Unit => json!({"type": "null"}),
        Type::Option(inner) => optional(schema_or_any(inner)),
        Type::List(item) => json!({"type": "array", "items": schema_or_any(item)}),
        Type::Tuple(items) => {
            let length = items.len();
            let items: Vec<_> = items.iter().map(schema_or_any).collect();
            json!({"type": "array", "items": items, "minItems": length, "maxItems": length})
        }
        Type::Map(key, value) => map(key, schema_or_any(value)),
        Type::Named(id) => json!({"$ref": format!("#/definitions/{}", types.get(*id).name)}),
    })
}

/// Returns the schema of an integer, with those of its limits that 64 bits can hold.
fn integer(Int { bits, is_signed }: Int) -> Value {
    let format = format!("{}int{bits}", if is_signed { "" } else { "u" });
    let mut schema = json!({"type": "integer", "format": format});
    match (is_signed, bits) {
        (true, 128) => {}
        (true, bits) => {
            schema["minimum"] = json!(i64::MIN >> (64 - bits));
            schema["maximum"] = json!(i64::MAX >> (64 - bits));
        }
        (false, 128) => schema["minimum"] = json!(0),
        (false, bits) => {
            schema["minimum"] = json!(0);
            schema["maximum"] = json!(u64::MAX >> (64 - bits));
        }
    }
    schema
}

/// Returns the schema of a value that may be `null` instead.
fn optional(mut schema: Value) -> Value {
    match schema.get("type").and_then(Value::as_str) {
        Some(name) => {
            schema["type"] = json!([name, "null"]);
            schema
        }
        None => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

/// Returns the schema of a map. Its keys are text in JSON.
fn map(key: &Key, value: Value) -> Value {
    let mut schema = json!({"type": "object", "additionalProperties": value});
    match key {
        Key::Text | Key::Named(_) => {}
        Key::Bool => schema["propertyNames"] = json!({"enum": ["false", "true"]}),
        Key::Int(Int { is_signed: true, .. }) => schema["propertyNames"] = json!({"pattern": "^-?[0-9]+$"}),
        Key::Int(_) => schema["propertyNames"] = json!({"pattern": "^[0-9]+$"}),
    }
    schema
}

fn definition(named: &Named, types: &Types) -> Value {
    let mut definition = match &named.shape {
        Shape::Struct(fields) => structure(fields, types),
        // A type of which only the name is known. Other shapes are only read from schemas.
        _ => json!({}),
    };
    definition["description"] = json!(named.docs);
    definition
}

fn structure(fields: &[Field], types: &Types) -> Value {
    let properties = fields.iter().map(|field| {
        let schema = schema(&field.ty, types).unwrap_or_else(|| json!({}));
        (field.name.clone(), schema)
    });
    let required = fields.iter().filter(|field| field.is_required);
    let required: Vec<_> = required.map(|field| &field.name).collect();
    json!({"type": "object", "properties": properties.collect::<Map<_, _>>(), "required": required})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the schemas of an argument of each type, and the definitions.
    fn spelled(types: &[&str]) -> (Vec<Option<Value>>, Value) {
        let arguments: Vec<_> = types.iter().map(|ty| json!({"name": ty, "type": ty})).collect();
        let description = json!({"methods": [{"name": "m", "arguments": arguments}]});
        let description = serde_json::from_value(description).unwrap();
        let found = with_schemas(&description).into_owned();
        let arguments = found.methods[0].arguments.iter();
        let schemas = arguments.map(|argument| argument.schema.clone()).collect();
        (schemas, json!(found.definitions))
    }

    #[test]
    fn types_of_the_standard_library_have_schemas() {
        let byte = || json!({"type": "integer", "format": "uint8", "minimum": 0, "maximum": 255});
        let cases = [
            ("bool", json!({"type": "boolean"})),
            ("&str", json!({"type": "string"})),
            ("f32", json!({"type": "number", "format": "float"})),
            ("f64", json!({"type": "number", "format": "double"})),
            ("()", json!({"type": "null"})),
            ("u8", byte()),
            (
                "i8",
                json!({"type": "integer", "format": "int8", "minimum": -128, "maximum": 127}),
            ),
            (
                "u64",
                json!({"type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX}),
            ),
            (
                "i64",
                json!({"type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX}),
            ),
            (
                "u128",
                json!({"type": "integer", "format": "uint128", "minimum": 0}),
            ),
            ("i128", json!({"type": "integer", "format": "int128"})),
            ("Option<String>", json!({"type": ["string", "null"]})),
            (
                "Vec<Option<f64>>",
                json!({"type": "array", "items": {"type": ["number", "null"], "format": "double"}}),
            ),
            (
                "(u8, bool)",
                json!({"type": "array", "items": [byte(), {"type": "boolean"}], "minItems": 2, "maxItems": 2}),
            ),
            (
                "[[u8; 2]; 3]",
                json!({"type": "array", "items": {"type": "array", "items": byte()}}),
            ),
            (
                "HashMap<String, u8>",
                json!({"type": "object", "additionalProperties": byte()}),
            ),
            (
                "BTreeMap<i32, Value>",
                json!({"type": "object", "additionalProperties": {}, "propertyNames": {"pattern": "^-?[0-9]+$"}}),
            ),
            (
                "BTreeMap<u32, bool>",
                json!({"type": "object", "additionalProperties": {"type": "boolean"}, "propertyNames": {"pattern": "^[0-9]+$"}}),
            ),
            (
                "BTreeMap<bool, ()>",
                json!({"type": "object", "additionalProperties": {"type": "null"}, "propertyNames": {"enum": ["false", "true"]}}),
            ),
        ];
        let (found, definitions) = spelled(&cases.each_ref().map(|(rust, _)| *rust));
        for ((rust, expected), found) in cases.iter().zip(&found) {
            assert_eq!(found.as_ref(), Some(expected), "{rust}");
        }
        assert_eq!(definitions, json!({}));
        let (bytes, _) = spelled(&["&[u8]", "Vec<u8>"]);
        assert!(
            bytes
                .iter()
                .flatten()
                .all(|it| it["format"] == "bytes" && it["items"] == byte())
        );
        assert_eq!(bytes.iter().flatten().count(), 2);
    }

    #[test]
    fn other_types_refer_to_definitions() {
        let (found, definitions) = spelled(&["Option<Page<User>>", "Vec<model::User>", "Duration"]);
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        assert_eq!(
            found,
            [
                Some(json!({"anyOf": [reference("PageUser"), {"type": "null"}]})),
                Some(json!({"type": "array", "items": reference("User")})),
                Some(reference("Duration")),
            ]
        );
        assert_eq!(
            definitions["User"],
            json!({"description": "The type `User` of Rust. Its form is not described."})
        );
        assert_eq!(definitions["Duration"]["required"], json!(["secs", "nanos"]));
        assert_eq!(
            definitions["Duration"]["properties"]["nanos"]["maximum"],
            u32::MAX
        );
    }

    #[test]
    fn types_that_are_not_known_have_no_schema() {
        let (found, definitions) = spelled(&["", "serde_json::Value", "io::Result<u8>::Ok", "<T as X>::Y"]);
        assert_eq!((found, definitions), (vec![None; 4], json!({})));
    }

    #[test]
    fn a_description_with_a_schema_stays() {
        let description = json!({"name": "S", "methods": [
            {"name": "m", "arguments": [{"name": "a", "type": "u8"}], "returns": "u8", "result_schema": {}},
        ]});
        let description = serde_json::from_value(description).unwrap();
        assert!(matches!(with_schemas(&description), Cow::Borrowed(same) if *same == description));
    }
}
