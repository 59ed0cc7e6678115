//! Reads JSON Schemas, as schemars makes them of Rust types.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::model::{Field, Int, Key, Named, Shape, Type, TypeId};
use super::named::Reader;
use super::rust_type::RustType;
use crate::definition_name;
use crate::keywords::{self, Keywords};

/// The limit on the nesting of schemas. The `depth` of a function is how much of it is left.
const MAX_DEPTH: usize = 24;

/// The limit on the types of a tuple. A longer one is read as a list of any values.
const MAX_TUPLE: usize = 64;

impl Reader<'_> {
    /// Reads the type of a value. `rust` is its type in Rust, if that is known: it tells maps from
    /// structs, and more about the keys of maps. `context` is a name for a type that has none.
    pub(super) fn schema(&mut self, schema: &Value, rust: Option<&RustType>, context: &str) -> Type {
        self.ty(schema, rust, context, MAX_DEPTH)
    }

    /// Reads the shape of a type that has a name already. One that needs none is an alias.
    pub(super) fn shape(&mut self, schema: &Value, name: &str) -> Shape {
        let Some(object) = schema.as_object() else {
            return Shape::Alias(Type::Any);
        };
        let shape = self.named_shape(schema, object, name, MAX_DEPTH);
        shape.unwrap_or_else(|| Shape::Alias(self.ty(schema, None, name, MAX_DEPTH)))
    }

    /// Reads the shape of a type that needs a name: an enum or a struct. `None` for other types,
    /// and for a struct that [`has_flattened`] fields.
    fn named_shape(&mut self, schema: &Value, object: &Keywords, name: &str, depth: usize) -> Option<Shape> {
        if object.contains_key("$ref") {
            return None;
        }
        if let Some(texts) = super::enums::texts_of_units(schema) {
            return Some(super::enums::units(&texts));
        }
        if let Some(alternatives) = keywords::alternatives(object) {
            return self.enumeration(alternatives, name, depth);
        }
        if has_flattened(object) {
            return None;
        }
        keywords::fields(object)?;
        Some(Shape::Struct(self.fields(object, name, depth)))
    }

    /// Reads the fields of a struct.
    pub(super) fn fields(&mut self, object: &Keywords, context: &str, depth: usize) -> Vec<Field> {
        self.fields_but(None, object, context, depth)
    }

    /// Reads the fields of a struct, but not the one with this name.
    pub(super) fn fields_but(
        &mut self,
        left_out: Option<&str>,
        object: &Keywords,
        context: &str,
        depth: usize,
    ) -> Vec<Field> {
        let fields = keywords::fields(object).unwrap_or_default().into_iter();
        let fields = fields.filter(|(name, _)| left_out != Some(*name));
        let fields = fields.map(|(name, schema)| Field {
            name: name.to_owned(),
            docs: keywords::docs(schema),
            ty: self.ty(
                schema,
                None,
                &format!("{context} {name}"),
                depth.saturating_sub(1),
            ),
            is_required: keywords::is_required(object, name),
        });
        fields.collect()
    }

    /// Reads a type, like [`schema`](Self::schema). A type that needs a name is added under
    /// `context`.
    pub(super) fn ty(
        &mut self,
        schema: &Value,
        rust: Option<&RustType>,
        context: &str,
        depth: usize,
    ) -> Type {
        // Without options, because the schema tells whether the value may be `null`.
        let rust = rust.map(RustType::unwrapped);
        let Some(object) = schema.as_object().filter(|_| depth > 0 && self.take_step()) else {
            return Type::Any;
        };
        if let Some(reference) = object.get("$ref") {
            let name = reference.as_str().and_then(definition_name);
            let id = name.and_then(|name| self.definition(&name));
            return id.map_or(Type::Any, Type::Named);
        }
        // In draft 7, this is how schemars writes a reference with a description beside it.
        if let Some([only]) = object.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
            && !object.contains_key("properties")
        {
            return self.ty(only, rust, context, depth - 1);
        }
        if let Some(alternatives) = keywords::alternatives(object)
            && let Some(ty) = self.optional(alternatives, rust, context, depth)
        {
            return ty;
        }
        // schemars may list the keys of a map like the fields of a struct.
        let is_map = rust.and_then(RustType::map).is_some() && value_of_listed_keys(object).is_some();
        if !is_map && let Some(shape) = self.named_shape(schema, object, context, depth) {
            let docs = keywords::docs(schema);
            let name = context.to_owned();
            let ty = self.add(Named { name, docs, shape });
            let ty = ty.map_or(Type::Any, Type::Named);
            return if is_nullable(object) { ty.option() } else { ty };
        }
        match object.get("type") {
            Some(Value::String(name)) => self.of_type(name, object, rust, context, depth),
            Some(Value::Array(names)) => self.of_types(names, object, rust, context, depth),
            _ => Type::Any,
        }
    }

    /// Reads two alternatives of which one is `null`. `None` for any others.
    fn optional(
        &mut self,
        alternatives: &[Value],
        rust: Option<&RustType>,
        context: &str,
        depth: usize,
    ) -> Option<Type> {
        let others: Vec<_> = alternatives.iter().filter(|it| !keywords::is_null(it)).collect();
        match others.as_slice() {
            [only] if alternatives.len() == 2 => Some(self.ty(only, rust, context, depth - 1).option()),
            _ => None,
        }
    }

    /// Reads a schema with a list of types. Only one, alone or beside `null`, can be expressed.
    fn of_types(
        &mut self,
        names: &[Value],
        object: &Keywords,
        rust: Option<&RustType>,
        context: &str,
        depth: usize,
    ) -> Type {
        let others: Vec<_> = names.iter().filter(|name| *name != "null").collect();
        match others.as_slice() {
            [Value::String(name)] if names.len() == 2 => {
                self.of_type(name, object, rust, context, depth).option()
            }
            [Value::String(name)] if names.len() == 1 => self.of_type(name, object, rust, context, depth),
            _ => Type::Any,
        }
    }

    /// Reads a schema whose type, apart from `null`, is `name`.
    fn of_type(
        &mut self,
        name: &str,
        object: &Keywords,
        rust: Option<&RustType>,
        context: &str,
        depth: usize,
    ) -> Type {
        let format = keywords::text(object.get("format"));
        match (name, format) {
            ("boolean", _) => Type::Bool,
            ("null", _) => Type::Unit,
            ("integer", _) => Type::Int(integer(object, format)),
            ("number", Some("float")) => Type::F32,
            ("number", _) => Type::F64,
            ("string", _) if is_character(object) => Type::Char,
            ("string", _) => Type::Text,
            // The runtime's own format.
            ("array", Some("bytes")) => Type::Bytes,
            ("array", _) => self.array(object, rust, context, depth),
            ("object", _) => self.map(object, rust, context, depth),
            _ => Type::Any,
        }
    }

    /// Reads a list or a tuple.
    fn array(&mut self, object: &Keywords, rust: Option<&RustType>, context: &str, depth: usize) -> Type {
        match object.get("items") {
            Some(Value::Array(items)) if (1..=MAX_TUPLE).contains(&items.len()) => {
                let rust = rust.and_then(|rust| rust.tuple_of(items.len()));
                let item = |(item, index): (&Value, usize)| {
                    let rust = rust.map(|types| &types[index]);
                    self.ty(item, rust, &format!("{context} {}", index + 1), depth - 1)
                };
                Type::Tuple(items.iter().zip(0..).map(item).collect())
            }
            Some(item @ Value::Object(_)) => {
                let rust = rust.and_then(RustType::item);
                self.ty(item, rust, &format!("{context} item"), depth - 1).list()
            }
            _ => Type::Any.list(),
        }
    }

    /// Reads an object that has no [`named_shape`](Self::named_shape): a map, or a struct with
    /// flattened fields, which may be any value.
    fn map(&mut self, object: &Keywords, rust: Option<&RustType>, context: &str, depth: usize) -> Type {
        if has_flattened(object) {
            return Type::Any;
        }
        let value = object.get("additionalProperties").filter(|it| it.is_object());
        let value = value.or_else(|| value_of_listed_keys(object));
        let (key, value) = match (value, integer_key_and_value(object)) {
            (None, Some((key, value))) => (Key::Int(key), Some(value)),
            (value, _) => (Key::Text, value),
        };
        let (rust_key, rust_value) = rust.and_then(RustType::map).unzip();
        let key = rust_key.map_or(key, |rust| self.more_exact_key(key, object, rust));
        let value = value.map_or(Type::Any, |value| {
            self.ty(value, rust_value, &format!("{context} value"), depth - 1)
        });
        Type::Map(Box::new(key), Box::new(value))
    }

    /// Returns the type of a map's keys: `key`, as the schema tells it, unless the spelling in Rust
    /// tells a more exact one that fits it.
    fn more_exact_key(&mut self, key: Key, map: &Keywords, rust: &RustType) -> Key {
        match (key, super::spelled::key(rust)) {
            (Key::Int(_), Some(Key::Int(int))) => Key::Int(int),
            (Key::Text, Some(Key::Bool)) => Key::Bool,
            (Key::Text, None) => self.enum_of_units(map, rust).map_or(key, Key::Named),
            _ => key,
        }
    }

    /// Returns the type of a map's keys if its definition is unambiguous, and an enum of units. No
    /// other enum can be the key of a map.
    fn enum_of_units(&mut self, map: &Keywords, rust: &RustType) -> Option<TypeId> {
        let (name, _) = rust.path()?;
        let definition = self.unambiguous_definition(name)?;
        let texts = super::enums::texts_of_units(definition)?;
        if let Some(keys) = keywords::fields(map) {
            let keys: BTreeSet<_> = keys.into_iter().map(|(key, _)| key).collect();
            let names: BTreeSet<_> = texts.iter().map(|(name, _)| *name).collect();
            // If they differ, the definition is that of another type with this name.
            if keys != names {
                return None;
            }
        }
        self.definition(name)
    }
}

/// Returns the schema of a map's values if the map lists its keys: schemars does so if they are an
/// enum of units, none of which has documentation. The schema of a struct looks the same if all its
/// fields have the same schema.
fn value_of_listed_keys(map: &Keywords) -> Option<&Value> {
    let fields = keywords::fields(map)?;
    let (_, first) = fields.first()?;
    fields.iter().all(|(_, value)| value == first).then_some(*first)
}

/// Whether a schema with a list of types allows `null`.
fn is_nullable(object: &Keywords) -> bool {
    let types = object.get("type").and_then(Value::as_array);
    types.is_some_and(|names| names.iter().any(|name| name == "null"))
}

/// Whether a schema of text allows only a single character.
fn is_character(schema: &Keywords) -> bool {
    let is_one = |limit: &str| schema.get(limit).and_then(Value::as_u64) == Some(1);
    is_one("minLength") && is_one("maxLength")
}

/// Whether a struct has flattened fields whose schemas are beside its own fields. schemars puts the
/// fields of a flattened struct among them.
fn has_flattened(object: &Keywords) -> bool {
    object.contains_key("properties") && keywords::is_combined(object)
}

/// Returns the type of an integer, which its format names, such as `uint8`. Without a known format,
/// it has 64 bits, and its limits tell the sign.
fn integer(object: &Keywords, format: Option<&str>) -> Int {
    let allows_negative = |keyword: &str| {
        let limit = object.get(keyword).and_then(Value::as_f64);
        limit.is_none_or(|limit| limit < 0.0)
    };
    format.and_then(known_integer).unwrap_or_else(|| Int {
        bits: 64,
        is_signed: allows_negative("minimum") && allows_negative("exclusiveMinimum"),
    })
}

/// Returns the integer that a format names.
fn known_integer(format: &str) -> Option<Int> {
    let (is_signed, signed_format) = match format.strip_prefix('u') {
        Some(rest) => (false, rest),
        None => (true, format),
    };
    let bits = match signed_format.strip_prefix("int")? {
        "" => 64,
        bits => bits.parse().ok()?,
    };
    let is_known = [8, 16, 32, 64, 128].contains(&bits);
    is_known.then_some(Int { bits, is_signed })
}

/// Returns the keys and the schema of the values of a map from integers, for whose keys schemars
/// writes a single pattern. `None` for any other map.
fn integer_key_and_value(map: &Keywords) -> Option<(Int, &Value)> {
    let patterns = map.get("patternProperties")?.as_object()?;
    let (pattern, value) = patterns.iter().next().filter(|_| patterns.len() == 1)?;
    let is_signed = match pattern.as_str() {
        r"^\d+$" => false,
        r"^-?\d+$" => true,
        _ => return None,
    };
    Some((Int { bits: 64, is_signed }, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::model::Types;
    use super::*;
    use crate::ServiceDescription;

    fn read_with(schema: &Value, rust: &str, definitions: Value) -> (Type, Types) {
        let description = ServiceDescription {
            definitions: serde_json::from_value(definitions).unwrap(),
            ..ServiceDescription::default()
        };
        let mut reader = Reader::new(&description);
        let ty = reader.schema(schema, RustType::parse(rust).as_ref(), "context");
        (ty, reader.finish())
    }

    fn read(schema: Value) -> Type {
        read_with(&schema, "", json!({})).0
    }

    fn int(bits: u8, is_signed: bool) -> Type {
        Type::Int(Int { bits, is_signed })
    }

    #[test]
    fn types_without_names_are_read() {
        let map = |key, value| Type::Map(Box::new(key), Box::new(value));
        let signed = Key::Int(Int {
            bits: 64,
            is_signed: true,
        });
        for (schema, expected) in [
            (json!({"type": "boolean"}), Type::Bool),
            (json!({"type": "integer", "format": "uint128"}), int(128, false)),
            (json!({"type": "integer", "format": "int"}), int(64, true)),
            (json!({"type": "integer", "minimum": 0}), int(64, false)),
            (json!({"type": "integer", "format": "int7"}), int(64, true)),
            (json!({"type": "number", "format": "float"}), Type::F32),
            (json!({"type": "number"}), Type::F64),
            (json!({"type": "string", "format": "uuid"}), Type::Text),
            (json!({"type": ["string", "null"]}), Type::Text.option()),
            (json!({"type": ["string"]}), Type::Text),
            (
                json!({"type": "string", "minLength": 1, "maxLength": 1}),
                Type::Char,
            ),
            (
                json!({"type": "string", "minLength": 1, "maxLength": 2}),
                Type::Text,
            ),
            (json!({"type": ["string", "integer"]}), Type::Any),
            (
                json!({"anyOf": [{"type": "null"}, {"type": "boolean"}]}),
                Type::Bool.option(),
            ),
            (
                json!({"allOf": [{"type": "boolean"}], "description": "x"}),
                Type::Bool,
            ),
            (json!({"type": "array", "format": "bytes"}), Type::Bytes),
            (
                json!({"type": "array", "items": {"type": "boolean"}}),
                Type::Bool.list(),
            ),
            (
                json!({"type": "array", "items": [{"type": "boolean"}, true]}),
                Type::Tuple(vec![Type::Bool, Type::Any]),
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "null"}}),
                map(Key::Text, Type::Unit),
            ),
            (
                json!({"type": "object", "patternProperties": {"^-?\\d+$": {"type": "null"}}}),
                map(signed, Type::Unit),
            ),
            (json!({"type": "object"}), map(Key::Text, Type::Any)),
            (json!({"$ref": "#/definitions/Nobody"}), Type::Any),
            (json!({"$ref": 7}), Type::Any),
            (json!(true), Type::Any),
            (json!(7), Type::Any),
        ] {
            assert_eq!(read(schema.clone()), expected, "{schema}");
        }
    }

    #[test]
    fn rust_tells_the_keys_of_maps() {
        let number = json!({"type": "object", "patternProperties": {"^\\d+$": {"type": "boolean"}}});
        let text = json!({"type": "object", "additionalProperties": {"type": "boolean"}});
        let color =
            json!({"Color": {"oneOf": [{"const": "red"}, {"const": "green"}]}, "User": {"type": "object"}});
        let key = |schema: &Value, rust: &str| match read_with(schema, rust, color.clone()).0 {
            Type::Map(key, _) => *key,
            other => panic!("{other:?}"),
        };
        let unsigned = |bits| {
            Key::Int(Int {
                bits,
                is_signed: false,
            })
        };
        assert_eq!(key(&number, ""), unsigned(64));
        assert_eq!(key(&number, "BTreeMap<u8, bool>"), unsigned(8));
        assert_eq!(key(&number, "&Arc<HashMap<u16, bool>>"), unsigned(16));
        assert_eq!(key(&number, "Vec<u8>"), unsigned(64));
        assert_eq!(key(&text, "HashMap<bool, bool>"), Key::Bool);
        assert_eq!(key(&text, "HashMap<Color, bool>"), Key::Named(TypeId(0)));
        assert_eq!(key(&text, "HashMap<User, bool>"), Key::Text);
        let map = Type::Map(Box::new(unsigned(8)), Box::new(Type::Bool));
        let lists = json!({"type": ["array", "null"], "items": number});
        let (ty, _) = read_with(&lists, "Option<Vec<HashMap<u8, bool>>>", json!({}));
        assert_eq!(ty, map.clone().list().option());
        let pair = json!({"type": "array", "items": [{"type": "boolean"}, number]});
        let (ty, _) = read_with(&pair, "(bool, &BTreeMap<u8, bool>)", json!({}));
        assert_eq!(ty, Type::Tuple(vec![Type::Bool, map.clone()]));
        let nested = json!({"type": "object", "additionalProperties": number});
        let (ty, _) = read_with(&nested, "HashMap<bool, HashMap<u8, bool>>", json!({}));
        assert_eq!(ty, Type::Map(Box::new(Key::Bool), Box::new(map)));
    }

    /// So do maps whose keys have documentation. Their schemas do not list the keys.
    #[test]
    fn a_map_that_lists_its_keys_is_a_map_where_rust_has_one() {
        let listed = |schema: Value| {
            json!({
                "type": "object", "properties": {"red": schema, "green": schema}, "additionalProperties": false,
            })
        };
        let (schema, colors) = (
            listed(json!({"type": "boolean"})),
            json!({"enum": ["green", "red"]}),
        );
        let map = |key| Type::Map(Box::new(key), Box::new(Type::Bool));
        let read = |rust: &str, definitions: &Value| read_with(&schema, rust, definitions.clone()).0;
        for rust in ["HashMap<Color, bool>", "&Arc<BTreeMap<Color, bool>>"] {
            assert_eq!(read(rust, &json!({})), map(Key::Text), "{rust}");
            let definitions = json!({"Color": colors});
            assert_eq!(read(rust, &definitions), map(Key::Named(TypeId(0))), "{rust}");
            // Another type with this name.
            let definitions = json!({"Color": {"enum": ["green", "red", "blue"]}});
            assert_eq!(read(rust, &definitions), map(Key::Text), "{rust}");
        }
        for rust in ["Limits", "Page<Color, bool>", ""] {
            let (ty, types) = read_with(&schema, rust, json!({}));
            assert_eq!(ty, Type::Named(TypeId(0)));
            assert!(matches!(&types.named()[0].shape, Shape::Struct(fields) if fields.len() == 2));
        }

        let mut optional = schema.clone();
        optional["type"] = json!(["object", "null"]);
        let (ty, _) = read_with(&optional, "Option<HashMap<Color, bool>>", json!({}));
        assert_eq!(ty, map(Key::Text).option());
        let nested = json!({"type": "array", "items": listed(schema)});
        let (ty, types) = read_with(&nested, "Vec<HashMap<Color, HashMap<Color, bool>>>", json!({}));
        let outer = Type::Map(Box::new(Key::Text), Box::new(map(Key::Text)));
        assert_eq!(ty, outer.list());
        assert!(types.named().is_empty());
    }

    #[test]
    fn a_struct_without_a_definition_may_be_optional() {
        let inline = json!({"type": ["object", "null"], "properties": {"a": {"type": "string"}}});
        let (ty, types) = read_with(&inline, "Option<Inline>", json!({}));
        assert_eq!(ty, Type::Named(TypeId(0)).option());
        assert!(matches!(&types.named()[0].shape, Shape::Struct(fields) if fields.len() == 1));
    }

    #[test]
    fn types_without_a_value_but_null_are_found() {
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let nothing = json!({"type": "null"});
        let definitions = json!({
            "Null": nothing,
            "Either": {"anyOf": [reference("Null"), nothing, reference("Null")]},
            "Maybe": {"anyOf": [reference("Either"), nothing]},
            "Circle": {"anyOf": [reference("Circle"), reference("Null"), nothing]},
            "Text": {"anyOf": [reference("Null"), nothing, {"type": "string"}]},
        });
        for (name, is_nothing) in [
            ("Null", true),
            ("Either", true),
            ("Maybe", true),
            ("Circle", false),
            ("Text", false),
        ] {
            let (ty, types) = read_with(&reference(name), "", definitions.clone());
            assert_eq!(types.is_nothing(&ty), is_nothing, "{name}: {types:?}");
        }
    }

    #[test]
    fn a_key_is_text_unless_its_enum_is_known_for_sure() {
        let map = json!({"type": "object", "additionalProperties": {"type": "boolean"}});
        let key = |definitions: Value| match read_with(&map, "HashMap<b::Color, bool>", definitions).0 {
            Type::Map(key, _) => *key,
            other => panic!("{other:?}"),
        };
        let units = json!([{"const": "red", "description": "Stop."}, {"const": "green"}]);
        let (known, color) = (Key::Named(TypeId(0)), json!({"oneOf": units}));
        assert_eq!(key(json!({"Color": color})), known);
        assert_eq!(key(json!({"Color": color, "Color2d": color})), known);
        // schemars numbers types with the same name.
        assert_eq!(key(json!({"Color": color, "Color2": color})), Key::Text);
        assert_eq!(key(json!({"Color": {"const": "red"}})), known);
        // The type is the one that it refers to.
        let other = json!({"type": "object", "properties": {}});
        for color in [
            json!({"$ref": "#/definitions/Other", "oneOf": units}),
            json!({"$ref": "#/definitions/Other", "enum": ["red"]}),
            json!({"oneOf": [{"$ref": "#/definitions/Other", "const": "red"}]}),
        ] {
            assert_eq!(key(json!({"Color": color, "Other": other})), Key::Text, "{color}");
        }
    }

    #[test]
    fn structs_have_fields_in_the_order_in_which_they_are_required() {
        let user = json!({
            "type": "object",
            "properties": {"a": {"type": "string"}, "b": {"$ref": "#/definitions/User"}, "c": {"enum": ["x"]}},
            "required": ["c", "a"],
        });
        let (ty, types) = read_with(&json!({"$ref": "#/definitions/User"}), "", json!({"User": user}));
        assert_eq!(ty, Type::Named(TypeId(0)));
        let Shape::Struct(fields) = &types.named()[0].shape else {
            panic!("{types:?}");
        };
        let fields: Vec<_> = fields
            .iter()
            .map(|it| (it.name.as_str(), &it.ty, it.is_required))
            .collect();
        let (own, other) = (Type::Named(TypeId(0)), Type::Named(TypeId(1)));
        assert_eq!(
            fields,
            [("c", &other, true), ("a", &Type::Text, true), ("b", &own, false)]
        );
        assert_eq!(types.named()[1].name, "User c");
    }

    #[test]
    fn deep_schemas_end() {
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = json!({"type": "array", "items": deep});
        }
        let mut ty = read(deep);
        for _ in 0..MAX_DEPTH {
            ty = match ty {
                Type::List(item) => *item,
                other => panic!("{other:?}"),
            };
        }
        assert_eq!(ty, Type::Any);
    }
}
