//! The rules for services, methods, arguments, and types that can only be compared by name.

use super::Verdict::*;
use super::*;

#[track_caller]
fn assert_method(old: Value, new: Value, expected: &[(Verdict, &str)]) {
    assert_methods(json!([named_get(old)]), json!([named_get(new)]), expected);
}

#[track_caller]
fn assert_arguments(old: Value, new: Value, expected: &[(Verdict, &str)]) {
    assert_method(json!({"arguments": old}), json!({"arguments": new}), expected);
}

#[test]
fn the_form_of_a_number_does_not_count() {
    let described = |number: &str| {
        let schema = format!(r#"{{"const": {number}, "minimum": {number}}}"#);
        let json = format!(
            r#"{{"methods": [{{"name": "get", "result_schema": {schema}, "incoming": "Item", "incoming_schema": {schema}}}]}}"#
        );
        serde_json::from_str::<ServiceDescription>(&json).unwrap()
    };
    assert_eq!(compare(&described("1.5"), &described("1.50")), []);
    assert_eq!(compare(&described("100.0"), &described("1e2")), []);
    assert_ne!(compare(&described("1.5"), &described("2.5")), []);
}

#[test]
fn idempotent_methods_and_streams_are_cancelled_without_the_option() {
    let messages = |old: Value, new: Value| {
        let named = |mut method: Value| {
            method["name"] = json!("get");
            service(json!([method]))
        };
        let changes = compare(&named(old), &named(new));
        let messages: Vec<_> = changes.into_iter().map(|change| change.message).collect();
        messages.join("; ")
    };
    let (cancel, idempotent) = (json!({"cancel": true}), json!({"idempotent": true}));
    for (old, new) in [
        (cancel.clone(), idempotent.clone()),
        (idempotent.clone(), cancel.clone()),
        (cancel.clone(), json!({"stream": true})),
        (json!({}), idempotent),
    ] {
        assert!(
            !messages(old.clone(), new.clone()).contains("stop"),
            "{old} {new}"
        );
    }
    assert!(messages(json!({}), cancel.clone()).contains("stop it once"));
    assert!(messages(cancel, json!({})).contains("no longer stop it"));
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
fn another_queue() {
    let (old, mut new) = (service(json!([])), service(json!([])));
    new.queue = "store.v2".to_owned();
    let place = || "the service".to_owned();
    assert_eq!(
        verdicts(&old, &new),
        [(BreaksCallers, place()), (BreaksWorkers, place())]
    );
}

#[test]
fn a_removed_method() {
    assert_methods(json!([{"name": "get"}]), json!([]), &[(BreaksCallers, "get")]);
}

#[test]
fn a_new_method() {
    assert_methods(json!([]), json!([{"name": "get"}]), &[(BreaksWorkers, "get")]);
}

#[test]
fn a_renamed_method_is_advised_to_keep_its_name_on_the_wire() {
    let arguments = json!([{"name": "id"}]);
    let old = service(json!([{"name": "get", "arguments": arguments}]));
    let new = service(json!([{"name": "count"}, {"name": "find", "arguments": arguments}]));
    let changes = compare(&old, &new);
    assert_eq!(
        changes[0].message,
        r#"it is gone, and new workers answer `unknown_method`; if it is now called find, keep its name on the wire with `#[rpc(name = "get")]`"#
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
fn idempotence() {
    let (once, again) = (json!({}), json!({"idempotent": true}));
    assert_method(again.clone(), once.clone(), &[(BreaksCallers, "get")]);
    assert_method(once, again, &[(BreaksWorkers, "get")]);
}

#[test]
fn cancellation_breaks_nobody() {
    let (runs_on, stops) = (json!({}), json!({"cancel": true}));
    assert_method(runs_on.clone(), stops.clone(), &[(Safe, "get")]);
    assert_method(stops, runs_on, &[(Safe, "get")]);
}

#[test]
fn timeouts_break_nobody() {
    assert_method(json!({}), json!({"timeout_ms": 200}), &[(Safe, "get")]);
    assert_method(
        json!({"timeout_ms": 200}),
        json!({"timeout_ms": 300}),
        &[(Safe, "get")],
    );
}

#[test]
fn a_method_may_not_become_a_broadcast_nor_back() {
    let (call, broadcast) = (json!({}), json!({"broadcast": true}));
    for (before, now) in [(call.clone(), broadcast.clone()), (broadcast, call)] {
        assert_method(before, now, &[(BreaksCallers, "get"), (BreaksWorkers, "get")]);
    }
}

#[test]
fn a_method_may_not_become_a_stream_nor_back() {
    let (call, stream) = (json!({}), json!({"stream": true}));
    for (before, now) in [(call.clone(), stream.clone()), (stream, call)] {
        assert_method(before, now, &[(BreaksCallers, "get"), (BreaksWorkers, "get")]);
    }
}

#[test]
fn a_method_may_not_begin_to_receive_a_stream_nor_stop() {
    let (call, upload) = (json!({}), json!({"incoming": "u8"}));
    for (before, now) in [(call.clone(), upload.clone()), (upload, call)] {
        assert_method(before, now, &[(BreaksCallers, "get"), (BreaksWorkers, "get")]);
    }
}

#[test]
fn old_workers_begin_a_stream_anew_that_is_to_be_resumed() {
    let of = |resumed_by: Option<&str>| {
        json!({
            "stream": true,
            "idempotent": true,
            "resume": resumed_by,
            "arguments": [
                {"name": "after", "type": "Option<u8>", "optional": true},
                {"name": "since", "type": "Option<u8>", "optional": true},
            ],
        })
    };
    let (never, after, since) = (of(None), of(Some("after")), of(Some("since")));
    assert_method(never.clone(), after.clone(), &[(BreaksWorkers, "get")]);
    // The other argument may have the same effect in new workers, but old ones do not know it.
    assert_method(
        after.clone(),
        since,
        &[(MayBreakCallers, "get"), (BreaksWorkers, "get")],
    );
    assert_method(after.clone(), after.clone(), &[]);
    assert_method(after, never, &[(MayBreakCallers, "get")]);
}

#[test]
fn an_argument_that_resumes_a_stream_is_renamed_or_removed() {
    let of = |name: &str, aliases: &[&str]| {
        json!({
            "stream": true,
            "idempotent": true,
            "resume": name,
            "arguments": [{"name": name, "type": "Option<u8>", "optional": true, "aliases": aliases}],
        })
    };
    let none = json!({"stream": true, "idempotent": true});
    let argument = (Safe, "get(since)");
    assert_method(of("after", &["since"]), of("since", &["after"]), &[argument]);
    assert_method(
        of("after", &[]),
        of("since", &["after"]),
        &[(BreaksWorkers, "get"), argument],
    );
    assert_method(
        of("after", &["since"]),
        of("since", &[]),
        &[(BreaksCallers, "get"), argument, (MayBreakCallers, "get")],
    );
    assert_method(
        of("after", &[]),
        none,
        &[(BreaksCallers, "get"), (Safe, "get(after)")],
    );
}

#[test]
fn items_for_a_method_change_as_arguments_do() {
    let of =
        |maximum: u32| json!({"incoming": "u8", "incoming_schema": {"type": "integer", "maximum": maximum}});
    assert_method(of(9), of(9), &[]);
    assert_method(of(9), of(5), &[(BreaksCallers, "the items for get")]);
    assert_method(of(5), of(9), &[(BreaksWorkers, "the items for get")]);
}

#[test]
fn a_method_that_returns_nothing_may_become_one_way_and_back() {
    let (answered, oneway) = (json!({"returns": "()"}), json!({"returns": "()", "oneway": true}));
    assert_method(answered.clone(), oneway.clone(), &[(Safe, "get")]);
    assert_method(oneway, answered, &[(Safe, "get")]);
}

#[test]
fn a_method_with_a_result_may_not_become_one_way() {
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
    // Callers of a one-way method read no error.
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
fn a_removed_argument() {
    let id = json!({"name": "id"});
    assert_arguments(json!([id]), json!([]), &[(BreaksWorkers, "get(id)")]);
    assert_arguments(
        json!([{"name": "id", "optional": true}]),
        json!([]),
        &[(Safe, "get(id)")],
    );
}

#[test]
fn a_renamed_argument() {
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
            .ends_with(r#"if it was called id before, add `#[serde(alias = "id")]`"#),
        "{}",
        changes[0]
    );

    // New workers with the old name as an alias understand old callers.
    let expected = [(Safe, "get(key)"), (BreaksWorkers, "get(id)")];
    assert_arguments(
        json!([{"name": "id"}]),
        json!([{"name": "key", "aliases": ["id"]}]),
        &expected,
    );
    // Old workers with the new name as an alias understand new callers.
    let expected = [(Safe, "get(key)")];
    assert_arguments(
        json!([{"name": "id", "aliases": ["key"]}]),
        json!([{"name": "key", "aliases": ["id"]}]),
        &expected,
    );
}

/// Each direction has its own pairs: what one version reads under an alias, the other may not.
#[test]
fn types_are_compared_in_the_direction_in_which_they_are_read() {
    let id = json!({"name": "id", "type": "u32", "schema": {"type": "integer"}});
    let key = json!({"name": "key", "type": "String", "schema": {"type": "string"}});
    let with = |argument: &Value, field: &str, value: Value| {
        let mut argument = argument.clone();
        argument[field] = value;
        json!([argument])
    };
    // Old workers read `key` as `id`, and new workers do not read `id`.
    let old = with(&id, "aliases", json!(["key"]));
    let moved = (MayBreakCallers, "get");
    assert_arguments(
        old.clone(),
        json!([key]),
        &[(BreaksCallers, "get(key)"), (BreaksWorkers, "get(key)"), moved],
    );
    assert_arguments(
        old.clone(),
        with(&key, "optional", json!(true)),
        &[
            (Safe, "get(key)"),
            (MayBreakWorkers, "get(key)"),
            (BreaksWorkers, "get(key)"),
            moved,
        ],
    );
    // New workers read `id` as `key`, and old workers skip `key`.
    let old = with(&id, "optional", json!(true));
    let mut new = with(&key, "aliases", json!(["id"]));
    new[0]["optional"] = json!(true);
    assert_arguments(old, new, &[(Safe, "get(key)"), (BreaksCallers, "get(key)")]);
}

/// Serde refuses a field that it reads twice, under its name and under an alias.
#[test]
fn two_arguments_that_the_other_version_reads_as_one() {
    let (id, key) = (
        json!({"name": "id", "optional": true}),
        json!({"name": "key", "optional": true}),
    );
    let both_names = json!({"name": "key", "optional": true, "aliases": ["id"]});
    assert_arguments(
        json!([both_names]),
        json!([key, id]),
        &[(Safe, "get(id)"), (BreaksWorkers, "get(id)")],
    );
    assert_arguments(
        json!([key, id]),
        json!([both_names]),
        &[(BreaksCallers, "get(id)")],
    );
}

#[test]
fn an_argument_that_becomes_optional_or_required() {
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

/// These callers do not name a method either.
#[test]
fn callers_that_send_a_single_argument_as_text() {
    let (a, b) = (json!({"name": "a"}), json!({"name": "b", "optional": true}));
    let method = |arguments: &[&Value]| json!({"default": true, "arguments": arguments});
    assert_method(
        method(&[&a]),
        method(&[&a, &b]),
        &[(Safe, "get(b)"), (MayBreakCallers, "get")],
    );
    assert_method(method(&[&b]), method(&[]), &[(Safe, "get(b)")]);
    assert_arguments(json!([a]), json!([a, b]), &[(Safe, "get(b)")]);
    // A method without arguments ignores the text.
    let c = json!({"name": "c", "optional": true});
    assert_method(
        method(&[]),
        method(&[&b, &c]),
        &[(Safe, "get(b)"), (Safe, "get(c)"), (MayBreakCallers, "get")],
    );
}

/// Text is read as a string, a number, a boolean, bytes or a unit variant, but not as an `Option`.
#[test]
fn a_single_argument_that_is_no_longer_read_from_text() {
    let of = |type_name: &str, schema: Value| json!({"default": true, "arguments": [{"name": "id", "type": type_name, "schema": schema}]});
    let named = |type_name: &str| of(type_name, Value::Null);
    let text_callers = (MayBreakCallers, "get(id)");
    for optional in ["Option<String>", "std::option::Option<String>"] {
        let changes = compare(
            &service(json!([named_get(named("String"))])),
            &service(json!([named_get(named(optional))])),
        );
        assert!(changes.iter().any(is_about_text), "{changes:?}");
    }
    let (text, optional) = (json!({"type": "string"}), json!({"type": ["string", "null"]}));
    assert_method(
        of("String", text.clone()),
        of("Option<String>", optional.clone()),
        &[(BreaksWorkers, "get(id)"), text_callers],
    );
    // Both are read from text, or neither is.
    let bytes = json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}});
    for (old, new) in [
        (
            of("Option<String>", optional.clone()),
            of("Option<String>", optional),
        ),
        (of("&[u8]", bytes.clone()), of("Vec<u8>", bytes)),
        (named("User"), named("Account")),
        (of("String", text.clone()), of("Name", text)),
        (named("Vec<String>"), named("Option<Vec<String>>")),
    ] {
        let (old, new) = (named_get(old), named_get(new));
        let changes = compare(&service(json!([old])), &service(json!([new])));
        assert!(!changes.iter().any(is_about_text), "{changes:?}");
    }
}

fn named_get(mut method: Value) -> Value {
    method["name"] = json!("get");
    method
}

fn is_about_text(change: &Change) -> bool {
    change.message.contains("text/plain")
}

fn one_argument(type_name: &str) -> Value {
    json!([{"name": "id", "type": type_name}])
}

#[test]
fn types_with_the_same_form_on_the_wire() {
    for (old, new) in [
        ("&str", "String"),
        ("Cow<'_, str>", "&str"),
        ("&[u8]", "Vec<u8>"),
        ("Cow<'static, [u8]>", "&[u8]"),
        ("&[User]", "Vec<User>"),
        ("&User", "User"),
        ("&[[u8; 4]]", "Vec<[u8; 4]>"),
        ("&'_ str", "String"),
        ("&'a [User]", "Vec<User>"),
        ("std::borrow::Cow<'_, str>", "String"),
        ("Option<Cow<'_, str>>", "Option<String>"),
        ("[[u8; 2]; 3]", "&[[u8; 2]; 3]"),
    ] {
        assert_arguments(one_argument(old), one_argument(new), &[(Safe, "get(id)")]);
    }
}

#[test]
fn different_names_of_types_may_break() {
    let both = [(MayBreakCallers, "get(id)"), (MayBreakWorkers, "get(id)")];
    assert_arguments(one_argument("u32"), one_argument("u64"), &both);
    assert_arguments(one_argument("[u8; 2]"), one_argument("[u8; 3]"), &both);
    assert_arguments(
        one_argument("u32"),
        one_argument("Option<u32>"),
        &[(MayBreakWorkers, "get(id)")],
    );
    assert_arguments(one_argument("User"), one_argument("User"), &[]);
}

#[test]
fn an_unknown_type_may_break() {
    let both = [(MayBreakCallers, "get(id)"), (MayBreakWorkers, "get(id)")];
    assert_arguments(one_argument(""), one_argument("User"), &both);
    assert_arguments(one_argument("User"), one_argument(""), &both);
    assert_arguments(one_argument(""), one_argument(""), &[]);
}

#[test]
fn methods_that_were_compared_by_name_are_listed() {
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
    // A schema on one side cannot be compared. A type that has changed is listed as a change
    // instead.
    let mut new = methods;
    new[6]["result_schema"] = Value::Null;
    new[1]["returns"] = json!("Vec<Account>");
    let compared = Comparison::new(&old, &service(new));
    assert_eq!(compared.changes.len(), 2);
    assert_eq!(compared.by_name, ["argument", "error", "nameless", "schema"]);
}

#[test]
fn results_and_errors_are_written_by_workers() {
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
fn a_method_that_becomes_fallible_or_infallible() {
    let (fallible, infallible) = (json!({"returns": "u8", "error": "E"}), json!({"returns": "u8"}));
    assert_method(
        infallible.clone(),
        fallible.clone(),
        &[(BreaksCallers, "the error of get")],
    );
    assert_method(fallible, infallible, &[(BreaksWorkers, "the error of get")]);
}

#[test]
fn changes_are_shown_as_sentences() {
    let old =
        service(json!([{"name": "get", "returns": "u32", "arguments": [{"name": "id", "type": "u32"}]}]));
    let new = service(
        json!([{"name": "get", "returns": "u32", "arguments": [{"name": "id", "type": "u64"}], "timeout_ms": 200}]),
    );
    let changes: Vec<_> = compare(&old, &new).iter().map(ToString::to_string).collect();
    let advice = "and only the names can be compared; describe both versions with `#[service(schema)]`";
    assert_eq!(
        changes,
        [
            "safe: get: new callers wait 200 ms, old ones as long as the client says".to_owned(),
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
fn changes_are_written_as_json() {
    let changes = compare(&service(json!([{"name": "get"}])), &service(json!([])));
    let json = serde_json::to_value(&changes).unwrap();
    assert_eq!(json[0]["verdict"], "breaks_callers");
    assert_eq!(json[0]["place"], json!({"method": "get"}));
}
