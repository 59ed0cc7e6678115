//! The rules for types with schemas, as schemars writes them.
//!
//! Most tests change the type of an argument: new workers read what old callers write, and old
//! workers read what new callers write.

use super::Verdict::*;
use super::*;

fn with_schema(schema: Value, definitions: Value) -> ServiceDescription {
    let mut service = service(json!([{"name": "get", "arguments": [{"name": "it", "schema": schema}]}]));
    service.definitions = serde_json::from_value(definitions).unwrap();
    service
}

#[track_caller]
fn assert_defined((old, olds): (Value, Value), (new, news): (Value, Value), expected: &[Verdict]) {
    let changes = compare(&with_schema(old, olds), &with_schema(new, news));
    let verdicts: Vec<_> = changes.iter().map(|change| change.verdict).collect();
    assert_eq!(verdicts, expected, "{changes:#?}");
}

#[track_caller]
fn assert_types(old: Value, new: Value, expected: &[Verdict]) {
    assert_defined((old, json!({})), (new, json!({})), expected);
}

#[track_caller]
fn message(old: Value, new: Value) -> String {
    let changes = compare(&with_schema(old, json!({})), &with_schema(new, json!({})));
    changes[0].message.clone()
}

fn object(properties: Value, required: Value) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

fn integer(format: &str) -> Value {
    json!({"type": "integer", "format": format})
}

#[test]
fn another_type() {
    assert_types(
        json!({"type": "string"}),
        integer("uint8"),
        &[BreaksCallers, BreaksWorkers],
    );
    assert_types(
        integer("uint8"),
        json!({"type": "number", "format": "double"}),
        &[BreaksWorkers],
    );
    assert_eq!(
        message(json!({"type": "string"}), integer("uint8")),
        "new workers cannot read what old callers send: string is written, and integer is read"
    );
}

#[test]
fn alternatives_are_described_in_words() {
    for (reader, words) in [
        (json!({"type": ["string", "null"]}), "null or string"),
        (
            json!({"anyOf": [{"$ref": "#/definitions/User"}, {"type": "null"}]}),
            "`User` or null",
        ),
        (json!({"enum": ["red", 1]}), "`\"red\"` or `1`"),
        (
            json!({"enum": [1, 2, 3, 4, 5, 6]}),
            "`1`, `2`, `3`, `4` or 2 more",
        ),
        (json!({"oneOf": [{"type": "boolean"}]}), "boolean"),
        (json!({"enum": []}), "a value"),
        (
            json!({"anyOf": [{"anyOf": [{"type": "null"}]}, true]}),
            "a value or a value",
        ),
    ] {
        assert_eq!(
            message(json!(true), reader),
            format!(
                "new workers may be unable to read what old callers send: any value may be written, and {words} is read"
            )
        );
    }
}

#[test]
fn wider_and_narrower_integers() {
    assert_types(integer("uint32"), integer("uint64"), &[BreaksWorkers]);
    assert_types(integer("uint64"), integer("uint32"), &[BreaksCallers]);
    assert_types(
        integer("int64"),
        integer("uint64"),
        &[BreaksCallers, BreaksWorkers],
    );
    assert_types(integer("int64"), integer("int128"), &[BreaksWorkers]);
    assert_types(
        integer("int128"),
        integer("uint128"),
        &[BreaksCallers, BreaksWorkers],
    );
    assert_eq!(
        message(integer("uint16"), integer("uint8")),
        "new workers cannot read what old callers send: integers from 0 to 65535 are written, and from 0 to 255 are read"
    );
}

#[test]
fn optional_values() {
    let maybe = json!({"type": ["integer", "null"], "format": "uint8"});
    assert_types(integer("uint8"), maybe.clone(), &[BreaksWorkers]);
    assert_types(maybe, integer("uint8"), &[BreaksCallers]);
    let text = json!({"anyOf": [{"type": "string"}, {"type": "null"}]});
    assert_types(text, json!({"type": ["string", "null"]}), &[]);
}

#[test]
fn annotations_are_ignored() {
    let described = json!({"type": "string", "description": "Text.", "title": "Text", "default": "a"});
    assert_types(json!({"type": "string"}), described, &[]);
}

#[test]
fn a_constant_has_to_be_within_the_limits() {
    let three = json!({"const": 3});
    assert_types(three.clone(), integer("uint8"), &[BreaksWorkers]);
    for above in [json!({"minimum": 4}), json!({"exclusiveMinimum": 3})] {
        let mut reader = integer("uint8");
        reader
            .as_object_mut()
            .unwrap()
            .extend(above.as_object().unwrap().clone());
        assert_types(three.clone(), reader, &[BreaksCallers, BreaksWorkers]);
    }
    let list = json!({"const": [1, 2]});
    for limit in [json!({"maxItems": 1}), json!({"items": {"type": "string"}})] {
        let mut reader = json!({"type": "array"});
        reader
            .as_object_mut()
            .unwrap()
            .extend(limit.as_object().unwrap().clone());
        assert_types(list.clone(), reader, &[MayBreakCallers, BreaksWorkers]);
    }
}

#[test]
fn a_required_field() {
    let (old, new) = (
        object(json!({"a": {"type": "string"}}), json!(["a"])),
        object(
            json!({"a": {"type": "string"}, "b": {"type": "string"}}),
            json!(["a", "b"]),
        ),
    );
    // A new field: old callers do not write it, and old workers skip it.
    assert_types(old.clone(), new.clone(), &[BreaksCallers]);
    // A removed field: old workers require it.
    assert_types(new.clone(), old.clone(), &[BreaksWorkers]);
    assert_eq!(
        message(old, new),
        "new workers cannot read what old callers send: the required field `b` is not written; give it `#[serde(default)]` in the reader"
    );
}

#[test]
fn an_optional_field() {
    let (old, new) = (
        object(json!({"a": {"type": "string"}}), json!(["a"])),
        object(
            json!({"a": {"type": "string"}, "b": {"type": "string"}}),
            json!(["a"]),
        ),
    );
    assert_types(old.clone(), new.clone(), &[]);
    assert_types(new, old, &[]);
    // The default is the reader's. A writer may still write the field always.
    let (required, optional) = (
        object(json!({"a": {"type": "string"}}), json!(["a"])),
        object(json!({"a": {"type": "string"}}), json!([])),
    );
    assert_types(required.clone(), optional.clone(), &[MayBreakWorkers]);
    assert_types(optional, required, &[MayBreakCallers]);
}

#[test]
fn nested_fields_are_compared() {
    let nested = |inner: Value| {
        object(
            json!({"list": {"type": "array", "items": object(json!({"n": inner}), json!(["n"]))}}),
            json!(["list"]),
        )
    };
    assert_types(
        nested(integer("uint8")),
        nested(integer("uint16")),
        &[BreaksWorkers],
    );
    assert!(
        message(nested(integer("uint16")), nested(integer("uint8"))).contains("at `.list[].n`, integers")
    );
}

#[test]
fn a_reader_that_refuses_unknown_fields() {
    let strict = |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
    let (old, new) = (
        strict(json!({"a": {"type": "string"}})),
        strict(json!({"a": {"type": "string"}, "b": {"type": "string"}})),
    );
    assert_types(old.clone(), new.clone(), &[BreaksWorkers]);
    assert_types(new, old, &[BreaksCallers]);
}

#[test]
fn variants() {
    let old = json!({"type": "string", "enum": ["a", "b"]});
    let new = json!({"oneOf": [
        {"type": "string", "enum": ["a", "b"]},
        {"type": "object", "properties": {"c": integer("uint8")}, "required": ["c"], "additionalProperties": false},
    ]});
    assert_types(old.clone(), new.clone(), &[BreaksWorkers]);
    assert_types(new.clone(), old.clone(), &[BreaksCallers]);
    assert_eq!(
        message(new, old),
        "new workers cannot read what old callers send: `c` is written, and the reader does not accept it"
    );
    assert_types(
        json!({"enum": ["a", "b"]}),
        json!({"oneOf": [{"const": "b"}, {"const": "a", "title": "A"}]}),
        &[],
    );
    assert_types(json!({"const": "a"}), json!({"type": "string"}), &[BreaksWorkers]);
}

#[test]
fn fields_of_a_variant() {
    let variant = |inner: Value| {
        json!({"oneOf": [
            {"type": "string", "const": "none"},
            {"type": "object", "properties": {"one": inner}, "required": ["one"], "additionalProperties": false},
        ]})
    };
    assert!(message(variant(integer("uint16")), variant(integer("uint8"))).contains("at `.one`, integers"));
    let tagged = |inner: Value| {
        json!({"oneOf": [
            object(json!({"type": {"type": "string", "const": "a"}, "n": inner}), json!(["type", "n"])),
            object(json!({"type": {"type": "string", "const": "b"}}), json!(["type"])),
        ]})
    };
    assert_types(
        tagged(integer("uint8")),
        tagged(integer("uint16")),
        &[BreaksWorkers],
    );
    assert!(message(tagged(integer("uint16")), tagged(integer("uint8"))).contains("at `.n`, integers"));
}

#[test]
fn lists_tuples_and_their_lengths() {
    let list = |items: Value| json!({"type": "array", "items": items});
    assert_types(list(integer("uint8")), list(integer("uint16")), &[BreaksWorkers]);
    let array = |length: u8| json!({"type": "array", "items": integer("uint8"), "minItems": length, "maxItems": length});
    assert_types(array(2), array(3), &[BreaksCallers, BreaksWorkers]);
    assert_types(array(2), list(integer("uint8")), &[BreaksWorkers, BreaksWorkers]);
    let tuple = |second: Value| json!({"type": "array", "items": [integer("uint8"), second], "minItems": 2, "maxItems": 2});
    assert_types(
        tuple(integer("uint8")),
        tuple(integer("uint16")),
        &[BreaksWorkers],
    );
    assert_types(array(2), tuple(integer("uint8")), &[]);
}

#[test]
fn bytes_and_lists() {
    let list = json!({"type": "array", "items": integer("uint8")});
    let bytes = json!({"type": "array", "items": integer("uint8"), "format": "bytes"});
    // A reader of bytes also reads a list of numbers.
    assert_types(list.clone(), bytes.clone(), &[MayBreakWorkers]);
    assert_types(bytes, list, &[MayBreakCallers]);
}

#[test]
fn maps() {
    let map = |values: Value| json!({"type": "object", "additionalProperties": values});
    assert_types(map(integer("uint8")), map(integer("uint16")), &[BreaksWorkers]);
    let object = object(json!({"a": integer("uint8")}), json!(["a"]));
    assert_types(map(json!(true)), map(integer("uint8")), &[MayBreakCallers]);
    // A writer of a map may leave the field out.
    assert_types(object.clone(), map(integer("uint8")), &[MayBreakWorkers]);
    assert_types(
        object,
        map(json!({"type": "string"})),
        &[BreaksCallers, BreaksWorkers, MayBreakWorkers],
    );
}

#[test]
fn formats_of_text_are_not_compared() {
    let text = |format: &str| json!({"type": "string", "format": format});
    assert_types(json!({"type": "string"}), text("uuid"), &[MayBreakCallers]);
    assert_types(
        text("date"),
        text("date-time"),
        &[MayBreakCallers, MayBreakWorkers],
    );
    assert_types(
        json!({"type": "string", "maxLength": 1}),
        json!({"type": "string"}),
        &[BreaksWorkers],
    );
}

#[test]
fn schemas_of_any_value() {
    assert_types(json!(true), json!({}), &[]);
    assert_types(json!({"type": "string"}), json!(true), &[MayBreakWorkers]);
    assert_types(
        json!({"description": "Anything."}),
        integer("uint8"),
        &[MayBreakCallers],
    );
}

#[test]
fn definitions_are_followed() {
    let reference = || json!({"$ref": "#/definitions/User"});
    let defined = |id: Value| json!({"User": object(json!({"id": id}), json!(["id"]))});
    assert_defined(
        (reference(), defined(integer("uint8"))),
        (reference(), defined(integer("uint8"))),
        &[],
    );
    assert_defined(
        (reference(), defined(integer("uint8"))),
        (reference(), defined(integer("uint16"))),
        &[BreaksWorkers],
    );
    // Another name, and a description beside the reference.
    let renamed = json!({"Person": object(json!({"id": integer("uint8")}), json!(["id"]))});
    let described = json!({"allOf": [{"$ref": "#/definitions/Person"}], "description": "Who."});
    assert_defined(
        (reference(), defined(integer("uint8"))),
        (described, renamed),
        &[],
    );
}

#[test]
fn recursive_types_end() {
    let node = |id: Value| {
        let next = json!({"anyOf": [{"$ref": "#/definitions/Node"}, {"type": "null"}]});
        (
            json!({"$ref": "#/definitions/Node"}),
            json!({"Node": object(json!({"id": id, "next": next}), json!(["id"]))}),
        )
    };
    assert_defined(node(integer("uint8")), node(integer("uint8")), &[]);
    assert_defined(
        node(integer("uint8")),
        node(json!({"type": "integer", "format": "uint8", "minimum": 0})),
        &[],
    );
    assert_defined(node(integer("uint8")), node(integer("uint16")), &[BreaksWorkers]);
}

/// What cannot be compared is never reported as safe.
#[test]
fn unsupported_keywords_may_break() {
    let both = [MayBreakCallers, MayBreakWorkers];
    let not = |ty: &str| json!({"type": "string", "not": {"type": ty}});
    assert_types(not("null"), not("object"), &both);
    let all = |ty: &str| json!({"allOf": [{"type": ty}, {"type": "string"}]});
    assert_types(
        all("string"),
        all("integer"),
        &[MayBreakCallers, MayBreakCallers, MayBreakWorkers, MayBreakWorkers],
    );
    let missing = json!({"$ref": "#/definitions/Nobody"});
    assert_types(missing, json!({"type": "string"}), &both);
    // Equal schemas with different definitions are not the same.
    let flattened = json!({"type": "object", "oneOf": [{"$ref": "#/definitions/A"}]});
    let defined = |ty: &str| json!({"A": {"type": ty}});
    assert_defined(
        (flattened.clone(), defined("string")),
        (flattened, defined("object")),
        &both,
    );
}

/// One alternative that may read a value is enough for "may break".
#[test]
fn an_alternative_that_cannot_be_compared() {
    let old = json!({"type": "string"});
    let new = json!({"anyOf": [integer("uint8"), {"type": "string", "pattern": "^a"}]});
    assert_types(old, new, &[MayBreakCallers, BreaksWorkers]);
}

#[test]
fn the_worst_problems_come_first_and_their_number_is_limited() {
    let fields = |last: &str| {
        let mut fields = serde_json::Map::new();
        for number in 0..50 {
            fields.insert(format!("a{number}"), json!({"type": "string", "format": last}));
        }
        fields.insert("b".to_owned(), json!({"type": last}));
        object(Value::Object(fields), json!([]))
    };
    let changes = compare(
        &with_schema(fields("string"), json!({})),
        &with_schema(fields("boolean"), json!({})),
    );
    assert_eq!(
        (changes[0].verdict, changes[1].verdict),
        (BreaksCallers, MayBreakCallers)
    );
    assert_eq!(changes.len(), 20);
}

#[test]
fn results_are_written_by_workers() {
    let returning =
        |schema: Value| service(json!([{"name": "get", "returns": "T", "result_schema": schema}]));
    let verdict = |old: Value, new: Value| verdicts(&returning(old), &returning(new));
    let place = || "the result of get".to_owned();
    assert_eq!(
        verdict(integer("uint8"), integer("uint16")),
        [(BreaksCallers, place())]
    );
    assert_eq!(
        verdict(integer("uint16"), integer("uint8")),
        [(BreaksWorkers, place())]
    );
}
