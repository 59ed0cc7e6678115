//! The rules of services, methods, arguments, and types that are known by their names.

use super::Verdict::*;
use super::*;

#[track_caller]
fn assert_method(old: Value, new: Value, expected: &[(Verdict, &str)]) {
    let named = |method: &Value| {
        let mut method = method.clone();
        method["name"] = json!("get");
        json!([method])
    };
    assert_methods(named(&old), named(&new), expected);
}

#[track_caller]
fn assert_arguments(old: Value, new: Value, expected: &[(Verdict, &str)]) {
    assert_method(json!({"arguments": old}), json!({"arguments": new}), expected);
}

#[test]
fn numbers_that_are_written_in_two_ways_are_equal() {
    let described = |number: &str| {
        let json = format!(
            r#"{{"methods": [{{"name": "get", "result_schema": {{"const": {number}, "minimum": {number}}}}}]}}"#
        );
        serde_json::from_str::<ServiceDescription>(&json).unwrap()
    };
    assert_eq!(compare(&described("1.5"), &described("1.50")), []);
    assert_eq!(compare(&described("100.0"), &described("1e2")), []);
    assert_ne!(compare(&described("1.5"), &described("2.5")), []);
}

#[test]
fn the_name_of_a_service_is_not_on_the_wire() {
    let (old, mut new) = (service(json!([])), service(json!([])));
    new.name = "Warehouse".to_owned();
    assert_eq!(verdicts(&old, &new), [(Safe, "the service".to_owned())]);
}

#[test]
fn documentation_does_not_count() {
    let (old, mut new) = (
        service(json!([{"name": "get"}])),
        service(json!([{"name": "get", "docs": "Gets."}])),
    );
    new.docs = "Stores.".to_owned();
    assert!(compare(&old, &new).is_empty());
}

#[test]
fn another_queue_parts_old_from_new() {
    let (old, mut new) = (service(json!([])), service(json!([])));
    new.queue = "store.v2".to_owned();
    let place = || "the service".to_owned();
    assert_eq!(
        verdicts(&old, &new),
        [(BreaksCallers, place()), (BreaksWorkers, place())]
    );
}

#[test]
fn a_method_that_is_gone() {
    assert_methods(json!([{"name": "get"}]), json!([]), &[(BreaksCallers, "get")]);
}

#[test]
fn a_new_method() {
    assert_methods(json!([]), json!([{"name": "get"}]), &[(BreaksWorkers, "get")]);
}

#[test]
fn a_method_by_another_name_is_advised_to_keep_the_old_one() {
    let arguments = json!([{"name": "id"}]);
    let old = service(json!([{"name": "get", "arguments": arguments}]));
    let new = service(json!([{"name": "count"}, {"name": "find", "arguments": arguments}]));
    let changes = compare(&old, &new);
    assert_eq!(
        changes[0].message,
        r#"it is gone, and new workers answer `unknown_method`; if it is find now, let that keep its name on the wire with `#[rpc(name = "get")]`"#
    );
    assert_eq!(changes.len(), 3);
}

#[test]
fn the_default_method() {
    let methods = |default: &str| json!([{"name": "get", "default": default == "get"}, {"name": "put", "default": default == "put"}]);
    assert_methods(methods("get"), methods(""), &[(MayBreakCallers, "get")]);
    assert_methods(methods(""), methods("get"), &[(MayBreakWorkers, "get")]);
    assert_methods(
        methods("get"),
        methods("put"),
        &[(MayBreakCallers, "get"), (MayBreakWorkers, "put")],
    );
}

#[test]
fn repetition() {
    let (once, again) = (json!({}), json!({"idempotent": true}));
    assert_method(again.clone(), once.clone(), &[(BreaksCallers, "get")]);
    assert_method(once, again, &[(BreaksWorkers, "get")]);
}

#[test]
fn time_limits_break_nobody() {
    assert_method(json!({}), json!({"timeout_ms": 200}), &[(Safe, "get")]);
    assert_method(
        json!({"timeout_ms": 200}),
        json!({"timeout_ms": 300}),
        &[(Safe, "get")],
    );
}

#[test]
fn a_method_that_returns_nothing_may_become_one_way_and_back() {
    let (answered, oneway) = (json!({"returns": "()"}), json!({"returns": "()", "oneway": true}));
    assert_method(answered.clone(), oneway.clone(), &[(Safe, "get")]);
    assert_method(oneway, answered, &[(Safe, "get")]);
}

#[test]
fn a_method_that_returns_something_may_not_become_one_way() {
    let unit = json!({"type": "null"});
    let schema = json!({"type": "integer", "format": "uint64"});
    let answered = json!({"returns": "u64", "result_schema": schema});
    let oneway = json!({"returns": "()", "oneway": true});
    assert_method(
        answered.clone(),
        oneway.clone(),
        &[(Safe, "get"), (BreaksCallers, "the result of get")],
    );
    assert_method(
        oneway,
        answered,
        &[(Safe, "get"), (BreaksWorkers, "the result of get")],
    );
    // Its error never comes.
    let fallible = json!({"returns": "()", "result_schema": unit, "error": "E"});
    assert_method(
        fallible.clone(),
        json!({"oneway": true, "returns": "()"}),
        &[(Safe, "get")],
    );
    assert_method(
        json!({"oneway": true, "returns": "()"}),
        fallible,
        &[(Safe, "get")],
    );
}

#[test]
fn a_new_argument() {
    let id = json!({"name": "id"});
    assert_arguments(json!([]), json!([id]), &[(BreaksCallers, "get(id)")]);
    assert_arguments(
        json!([]),
        json!([{"name": "id", "optional": true}]),
        &[(Safe, "get(id)")],
    );
}

#[test]
fn an_argument_that_is_gone() {
    let id = json!({"name": "id"});
    assert_arguments(json!([id]), json!([]), &[(BreaksWorkers, "get(id)")]);
    assert_arguments(
        json!([{"name": "id", "optional": true}]),
        json!([]),
        &[(Safe, "get(id)")],
    );
}

#[test]
fn an_argument_by_another_name() {
    let expected = [
        (BreaksCallers, "get(key)"),
        (BreaksWorkers, "get(id)"),
        (MayBreakCallers, "get"),
    ];
    assert_arguments(json!([{"name": "id"}]), json!([{"name": "key"}]), &expected);
    let changes = compare(
        &service(json!([{"name": "get", "arguments": [{"name": "id"}]}])),
        &service(json!([{"name": "get", "arguments": [{"name": "key"}]}])),
    );
    assert!(
        changes[0]
            .message
            .ends_with(r#"if it was called id before, with `#[serde(alias = "id")]`"#),
        "{}",
        changes[0]
    );

    // With the old name as an alias, new workers understand old callers.
    let expected = [(Safe, "get(key)"), (BreaksWorkers, "get(id)")];
    assert_arguments(
        json!([{"name": "id"}]),
        json!([{"name": "key", "aliases": ["id"]}]),
        &expected,
    );
    // Old workers that know the new name already understand new callers.
    let expected = [(Safe, "get(key)")];
    assert_arguments(
        json!([{"name": "id", "aliases": ["key"]}]),
        json!([{"name": "key", "aliases": ["id"]}]),
        &expected,
    );
}

#[test]
fn an_argument_that_may_be_left_out_or_no_longer() {
    let (required, optional) = (json!([{"name": "id"}]), json!([{"name": "id", "optional": true}]));
    assert_arguments(
        optional.clone(),
        required.clone(),
        &[(MayBreakCallers, "get(id)")],
    );
    assert_arguments(required, optional, &[(MayBreakWorkers, "get(id)")]);
}

#[test]
fn callers_that_send_arguments_by_position() {
    let (a, b) = (json!({"name": "a"}), json!({"name": "b", "optional": true}));
    let c = json!({"name": "c", "optional": true});
    assert_arguments(json!([a, b]), json!([b, a]), &[(MayBreakCallers, "get")]);
    assert_arguments(json!([a, b]), json!([a, b, c]), &[(Safe, "get(c)")]);
    assert_arguments(
        json!([a, b]),
        json!([a, c, b]),
        &[(Safe, "get(c)"), (MayBreakCallers, "get")],
    );
}

/// Such callers name no method either.
#[test]
fn callers_that_send_the_one_argument_as_text() {
    let (a, b) = (json!({"name": "a"}), json!({"name": "b", "optional": true}));
    let method = |arguments: &[&Value]| json!({"default": true, "arguments": arguments});
    assert_method(
        method(&[&a]),
        method(&[&a, &b]),
        &[(Safe, "get(b)"), (MayBreakCallers, "get")],
    );
    assert_method(method(&[&b]), method(&[]), &[(Safe, "get(b)")]);
    assert_arguments(json!([a]), json!([a, b]), &[(Safe, "get(b)")]);
}

fn argument(name: &str) -> Value {
    json!([{"name": "id", "type": name}])
}

#[test]
fn types_that_travel_alike() {
    for (old, new) in [
        ("&str", "String"),
        ("Cow<'_, str>", "&str"),
        ("&[u8]", "Vec<u8>"),
        ("Cow<'static, [u8]>", "&[u8]"),
        ("&[User]", "Vec<User>"),
        ("&User", "User"),
    ] {
        assert_arguments(argument(old), argument(new), &[(Safe, "get(id)")]);
    }
}

#[test]
fn of_names_alone_nothing_is_known_for_sure() {
    let both = [(MayBreakCallers, "get(id)"), (MayBreakWorkers, "get(id)")];
    assert_arguments(argument("u32"), argument("u64"), &both);
    assert_arguments(argument("[u8; 2]"), argument("[u8; 3]"), &both);
    assert_arguments(
        argument("u32"),
        argument("Option<u32>"),
        &[(MayBreakWorkers, "get(id)")],
    );
    assert_arguments(argument("User"), argument("User"), &[]);
}

#[test]
fn a_type_that_is_not_known_may_be_any() {
    let both = [(MayBreakCallers, "get(id)"), (MayBreakWorkers, "get(id)")];
    assert_arguments(argument(""), argument("User"), &both);
    assert_arguments(argument("User"), argument(""), &both);
    assert_arguments(argument(""), argument(""), &[]);
}

#[test]
fn what_was_compared_by_name_only_is_told() {
    let schema = json!({"type": "object"});
    let methods = json!([
        {"name": "argument", "returns": "()", "arguments": [{"name": "user", "type": "User"}]},
        {"name": "result", "returns": "Vec<User>"},
        {"name": "error", "returns": "()", "error": "Refusal"},
        {"name": "nameless", "returns": ""},
        {"name": "plain", "returns": "Vec<u64>", "arguments": [{"name": "id", "type": "&str"}]},
        {"name": "oneway", "returns": "()", "oneway": true},
        {"name": "schema", "returns": "User", "result_schema": schema},
    ]);
    let old = service(methods.clone());
    let compared = Comparison::new(&old, &old);
    assert_eq!(compared.changes, []);
    assert_eq!(compared.by_name, ["argument", "result", "error", "nameless"]);
    // One side's schema cannot be compared with anything, and what has changed is told as a change.
    let mut new = methods;
    new[6]["result_schema"] = Value::Null;
    new[1]["returns"] = json!("Vec<Account>");
    let compared = Comparison::new(&old, &service(new));
    assert_eq!(compared.changes.len(), 2);
    assert_eq!(compared.by_name, ["argument", "error", "nameless", "schema"]);
}

#[test]
fn results_and_errors_go_the_other_way() {
    let returns = |returns: &str| json!({"returns": returns});
    let both = [
        (MayBreakCallers, "the result of get"),
        (MayBreakWorkers, "the result of get"),
    ];
    assert_method(returns("u32"), returns("u64"), &both);
    assert_method(
        returns("u32"),
        returns("Option<u32>"),
        &[(MayBreakCallers, "the result of get")],
    );
    assert_method(
        returns("Option<u32>"),
        returns("u32"),
        &[(MayBreakWorkers, "the result of get")],
    );
    let error = |error: &str| json!({"returns": "()", "error": error});
    let both = [
        (MayBreakCallers, "the error of get"),
        (MayBreakWorkers, "the error of get"),
    ];
    assert_method(error("A"), error("B"), &both);
}

#[test]
fn a_method_that_can_fail_and_could_not_before() {
    let (fallible, infallible) = (json!({"returns": "u8", "error": "E"}), json!({"returns": "u8"}));
    assert_method(
        infallible.clone(),
        fallible.clone(),
        &[(BreaksCallers, "the error of get")],
    );
    assert_method(fallible, infallible, &[(BreaksWorkers, "the error of get")]);
}

#[test]
fn changes_are_told_in_sentences() {
    let old =
        service(json!([{"name": "get", "returns": "u32", "arguments": [{"name": "id", "type": "u32"}]}]));
    let new = service(
        json!([{"name": "get", "returns": "u32", "arguments": [{"name": "id", "type": "u64"}], "timeout_ms": 200}]),
    );
    let changes: Vec<_> = compare(&old, &new).iter().map(ToString::to_string).collect();
    let advice = "and only the names are known; describe both versions with `#[service(schema)]`";
    assert_eq!(
        changes,
        [
            "safe: get: new callers wait 200 ms, old ones the client's own time".to_owned(),
            format!(
                "may break old callers: get(id): new workers may be unable to read what old callers send: `u32` is written and `u64` is read, {advice}"
            ),
            format!(
                "may break old workers: get(id): old workers may be unable to read what new callers send: `u64` is written and `u32` is read, {advice}"
            ),
        ]
    );
}

#[test]
fn the_order_of_a_rollout() {
    let change = |verdict| Change {
        verdict,
        place: Place::Service,
        message: String::new(),
    };
    let rollout =
        |verdicts: &[Verdict]| Rollout::of(&verdicts.iter().copied().map(change).collect::<Vec<_>>());
    assert_eq!(rollout(&[]), Rollout::AnyOrder);
    assert_eq!(rollout(&[Safe, Safe]), Rollout::AnyOrder);
    assert_eq!(rollout(&[Safe, BreaksWorkers]), Rollout::WorkersFirst);
    assert_eq!(rollout(&[MayBreakWorkers]), Rollout::WorkersFirst);
    assert_eq!(rollout(&[BreaksCallers, Safe]), Rollout::CallersFirst);
    assert_eq!(rollout(&[MayBreakCallers, BreaksWorkers]), Rollout::InSteps);
}

#[test]
fn changes_are_data() {
    let changes = compare(&service(json!([{"name": "get"}])), &service(json!([])));
    let json = serde_json::to_value(&changes).unwrap();
    assert_eq!(json[0]["verdict"], "breaks_callers");
    assert_eq!(json[0]["place"], json!({"method": "get"}));
}
