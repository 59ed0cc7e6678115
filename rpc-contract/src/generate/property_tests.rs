//! Property tests: of any description, the generators make modules that the languages can parse.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::{Language, module};
use crate::description::tests::service;
use crate::{ArgumentDescription, MethodDescription, ServiceDescription};

/// Names that mean something to JSON Schema, to serde, or to a language.
const NAMES: [&str; 24] = [
    "",
    "a",
    "A",
    "b",
    "kind",
    "type",
    "t",
    "c",
    "value",
    "class",
    "self",
    "__proto__",
    "str",
    "list",
    "then",
    "constructor",
    "methods",
    "options",
    "*/",
    "\"\"\"",
    "\\",
    "'",
    "\u{2028}",
    "größe \n x",
];

const TYPES: [&str; 12] = [
    "",
    "u8",
    "&str",
    "Vec<u8>",
    "Option<Vec<User>>",
    "HashMap<u8, (A, Duration)>",
    "()",
    "impl X",
    "[u8; 4]",
    "Page<A>",
    "io::Result<A>::Err",
    "\"*/",
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
        1 => ".{0,8}",
    ]
}

/// A schema as Rust types have it, with references to any name, or one that no type has, such as
/// `7` or an empty `oneOf`.
fn schema() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "integer", "format": "uint64", "minimum": 0})),
        Just(json!({"type": ["boolean", "null"]})),
        Just(json!({"type": "null"})),
        Just(json!({"type": "array", "format": "bytes"})),
        Just(json!(true)),
        Just(json!(7)),
        name().prop_map(|name| json!({"const": name})),
        prop::collection::vec(name(), 0..4).prop_map(|names| json!({"enum": names})),
        name().prop_map(|name| json!({"$ref": format!("#/definitions/{name}")})),
    ];
    // Four levels, some 24 schemas in all, and four in each of them.
    scalar.prop_recursive(4, 24, 4, |inner| {
        let many = || prop::collection::vec(inner.clone(), 0..4);
        let fields = || prop::collection::btree_map(name(), inner.clone(), 0..4);
        prop_oneof![
            inner.clone().prop_map(|item| json!({"type": "array", "items": item})),
            many().prop_map(|items| json!({"type": "array", "items": items})),
            inner.clone().prop_map(|value| json!({"type": "object", "additionalProperties": value})),
            inner.clone().prop_map(|value| json!({"type": "object", "patternProperties": {r"^\d+$": value}})),
            (fields(), prop::collection::vec(name(), 0..3), name())
                .prop_map(|(fields, required, docs)| json!({"type": "object", "properties": fields, "required": required, "description": docs})),
            // A variant of an externally tagged enum.
            (name(), inner.clone()).prop_map(
                |(name, content)| json!({"type": "object", "properties": {&name: content}, "required": [name], "additionalProperties": false})
            ),
            // A variant of an internally tagged enum.
            (name(), fields()).prop_map(|(tag, mut fields)| {
                fields.insert("type".to_owned(), json!({"const": tag}));
                json!({"type": "object", "properties": fields, "required": ["type"]})
            }),
            inner.clone().prop_map(|schema| json!({"anyOf": [schema, {"type": "null"}]})),
            many().prop_map(|schemas| json!({"anyOf": schemas})),
            many().prop_map(|schemas| json!({"oneOf": schemas, "description": "*/ \"\"\" \\"})),
            many().prop_map(|schemas| json!({"allOf": schemas})),
        ]
    })
}

prop_compose! {
    fn argument()(
        (name, rust, is_optional) in (name(), prop::sample::select(&TYPES[..]), any::<bool>()),
        aliases in prop::collection::vec(name(), 0..3),
        schema in prop::option::of(schema()),
    ) -> ArgumentDescription {
        ArgumentDescription { name, type_name: rust.to_owned(), is_optional, aliases, schema }
    }
}

prop_compose! {
    fn method()(
        (name, docs) in (name(), name()),
        (returns, error) in (prop::sample::select(&TYPES[..]), prop::option::of(prop::sample::select(&TYPES[..]))),
        arguments in prop::collection::vec(argument(), 0..4),
        flags in any::<[bool; 6]>(),
        timeout_ms in any::<Option<u64>>(),
        schemas in (prop::option::of(schema()), prop::option::of(schema()), prop::option::of(schema())),
        incoming in prop::option::of(prop::sample::select(&TYPES[..])),
    ) -> MethodDescription {
        let [is_default, is_idempotent, is_oneway, is_broadcast, is_cancellable, is_streaming] = flags;
        MethodDescription {
            name,
            docs,
            resumed_by: arguments.first().map(|argument| argument.name.clone()),
            arguments,
            returns: returns.to_owned(),
            error: error.map(str::to_owned),
            is_default,
            is_idempotent,
            is_oneway,
            is_broadcast,
            is_cancellable,
            is_streaming,
            timeout_ms,
            incoming: incoming.map(str::to_owned),
            result_schema: schemas.0,
            error_schema: schemas.1,
            incoming_schema: schemas.2,
            ..MethodDescription::default()
        }
    }
}

prop_compose! {
    fn likely_service()(
        (name, docs) in (name(), name()),
        methods in prop::collection::vec(method(), 0..6),
        definitions in prop::collection::btree_map(name(), schema(), 0..8),
    ) -> ServiceDescription {
        let queue = "queue".to_owned();
        ServiceDescription { name, queue, docs, methods, definitions }
    }
}

proptest! {
    #[test]
    fn any_description_gives_modules(service in prop_oneof![service(), likely_service()]) {
        for language in [Language::Python, Language::TypeScript] {
            let module = module(&service, language);
            prop_assert!(module.contains("Client"));
            prop_assert!(!module.chars().any(|c| super::docs::is_invisible(c) && c != '\n'), "{}", module);
            prop_assert!(!module.contains(" \n") && !module.contains('\t'), "{}", module);
        }
    }
}

/// Returns the modules of many descriptions.
fn modules(language: Language) -> Vec<String> {
    let mut runner = TestRunner::deterministic();
    let services = prop_oneof![service(), likely_service()];
    let mut module_of_any = || module(&services.new_tree(&mut runner).unwrap().current(), language);
    (0..500).map(|_| module_of_any()).collect()
}

/// Passes the modules, as an array in JSON, to a program that must read them.
///
/// # Panics
///
/// Panics if there is no such program, and with what it says about a module that it cannot read.
fn check(program: &str, arguments: &[&str], modules: &[String]) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{program} does not start ({error}): run tests/run once"));
    let json = serde_json::to_vec(modules).unwrap();
    // It reads all of them before it writes. If it has ended before, its output says why.
    let _ = child.stdin.take().unwrap().write_all(&json);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}\n{text}", output.status);
}

#[test]
fn python_reads_any_module() {
    let script = "import ast, json, sys\nfor module in json.load(sys.stdin): ast.parse(module)";
    check("python3", &["-c", script], &modules(Language::Python));
}

/// `prettier` has the parser of TypeScript. `RPC_TESTS_PRETTIER` is its folder, by default the one
/// that an earlier `tests/run` prepared.
#[test]
fn typescript_reads_any_module() {
    let prepared = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/peers/node_modules/prettier"
    );
    let prettier = std::env::var("RPC_TESTS_PRETTIER").unwrap_or_else(|_| prepared.to_owned());
    let parser = Path::new(&prettier).join("index.mjs");
    assert!(
        parser.is_file(),
        "{} does not exist: run tests/run once, it prepares target/peers",
        parser.display()
    );
    let script = "
        const prettier = await import(process.argv[1] + '/index.mjs');
        const { text } = await import('node:stream/consumers');
        const modules = JSON.parse(await text(process.stdin));
        for (const module of modules) await prettier.format(module, { parser: 'typescript' });
    ";
    let arguments = ["--input-type=module", "--eval", script, "--", &prettier];
    check("node", &arguments, &modules(Language::TypeScript));
}

/// What a peer may send that is too large to be read as a whole.
#[test]
fn large_descriptions_end() {
    let chain = |n: u32| {
        (
            n.to_string(),
            json!({"allOf": [{"$ref": format!("#/definitions/{}", n + 1)}]}),
        )
    };
    let mut service = ServiceDescription::new("S", "s");
    service.definitions = (0..20_000).map(chain).collect::<BTreeMap<_, _>>();
    let mut first = MethodDescription::new("first");
    first.result_schema = Some(json!({"$ref": "#/definitions/0"}));
    let mut wide = MethodDescription::new("wide");
    wide.arguments = (0..20_000)
        .map(|n| ArgumentDescription::new(n.to_string(), "u8"))
        .collect();
    let alternatives: Vec<_> = (0..20_000).map(|n| json!({"const": n.to_string()})).collect();
    let mut choice = MethodDescription::new("choice");
    choice.result_schema = Some(json!({"oneOf": alternatives}));
    service.methods = vec![first, wide, choice];
    for language in [Language::Python, Language::TypeScript] {
        assert!(module(&service, language).len() > 1_000_000);
    }
}
