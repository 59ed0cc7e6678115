//! Faults of `#[rpc(..)]` on a method.

use super::assert_method;

#[test]
fn misspelt_method_option() {
    assert_method(
        "#[rpc(idempotnt)] async fn f(&self);",
        &[(
            "idempotnt",
            "unknown option `idempotnt`; did you mean `idempotent`? the options of a method are: `default`, `idempotent`, `cancel`, `oneway`, `broadcast`, `retry`, `timeout`, `name`",
        )],
    );
}

#[test]
fn unknown_method_option() {
    assert_method(
        "#[rpc(retries = 3)] async fn f(&self);",
        &[(
            "retries",
            "unknown option `retries`; the options of a method are: `default`, `idempotent`, `cancel`, `oneway`, `broadcast`, `retry`, `timeout`, `name`",
        )],
    );
}

#[test]
fn context_on_a_method() {
    assert_method(
        "#[rpc(context)] async fn f(&self);",
        &[(
            "context",
            "`context` is an option of a parameter, not of a method",
        )],
    );
}

#[test]
fn method_option_twice() {
    assert_method(
        "#[rpc(idempotent, idempotent)] async fn f(&self);",
        &[("idempotent", "option `idempotent` is given twice; remove one")],
    );
}

#[test]
fn method_option_twice_in_two_attributes() {
    assert_method(
        r#"#[rpc(timeout = "1s")] #[rpc(timeout = "2s")] async fn f(&self);"#,
        &[("timeout", "option `timeout` is given twice; remove one")],
    );
}

#[test]
fn rpc_without_options() {
    assert_method(
        "#[rpc] async fn f(&self);",
        &[(
            "#[rpc]",
            "`#[rpc]` needs options in parentheses; write `#[rpc(default)]` or remove it",
        )],
    );
}

#[test]
fn flag_with_a_value() {
    assert_method(
        "#[rpc(idempotent = true)] async fn f(&self);",
        &[("true", "`idempotent` takes no value; write `idempotent`")],
    );
}

#[test]
fn timeout_without_value() {
    assert_method(
        "#[rpc(timeout)] async fn f(&self);",
        &[("timeout", r#"`timeout` needs a value; write `timeout = "2s"`"#)],
    );
}

#[test]
fn timeout_not_a_string() {
    assert_method(
        "#[rpc(timeout = 2)] async fn f(&self);",
        &[("2", r#"`timeout` takes a string; write `timeout = "2s"`"#)],
    );
}

#[test]
fn timeout_without_unit() {
    assert_method(
        r#"#[rpc(timeout = "2")] async fn f(&self);"#,
        &[(
            r#""2""#,
            r#"time unit needed, for example 2sec or 2ms; write numbers with units, such as `timeout = "500ms"` or `timeout = "1m 30s"`"#,
        )],
    );
}

#[test]
fn timeout_without_number() {
    assert_method(
        r#"#[rpc(timeout = "s")] async fn f(&self);"#,
        &[(
            r#""s""#,
            r#"expected number at 0; write numbers with units, such as `timeout = "500ms"` or `timeout = "1m 30s"`"#,
        )],
    );
}

#[test]
fn timeout_with_a_fraction_of_a_millisecond() {
    assert_method(
        r#"#[rpc(timeout = "1500us")] async fn f(&self);"#,
        &[(
            r#""1500us""#,
            "a timeout is a whole number of milliseconds, and at most 49 days: the runtime sends no longer `expiration`",
        )],
    );
}

#[test]
fn timeout_of_zero() {
    assert_method(
        r#"#[rpc(timeout = "0ms")] async fn f(&self);"#,
        &[(
            r#""0ms""#,
            "a timeout of zero would fail every call; remove `timeout` to get the default of 30 s",
        )],
    );
}

#[test]
fn timeout_too_long() {
    assert_method(
        r#"#[rpc(timeout = "1200h")] async fn f(&self);"#,
        &[(
            r#""1200h""#,
            "a timeout is a whole number of milliseconds, and at most 49 days: the runtime sends no longer `expiration`",
        )],
    );
}

#[test]
fn timeout_that_overflows() {
    assert_method(
        r#"#[rpc(timeout = "99999999999999999999999h")] async fn f(&self);"#,
        &[(
            r#""99999999999999999999999h""#,
            "a timeout is a whole number of milliseconds, and at most 49 days: the runtime sends no longer `expiration`",
        )],
    );
}

#[test]
fn a_sum_that_overflows_is_refused() {
    assert_method(
        r#"#[rpc(timeout = "18446744073709551615s 1000ms")] async fn f(&self);"#,
        &[(
            r#""18446744073709551615s 1000ms""#,
            "a timeout is a whole number of milliseconds, and at most 49 days: the runtime sends no longer `expiration`",
        )],
    );
}

#[test]
fn wire_name_empty() {
    assert_method(
        r#"#[rpc(name = "")] async fn f(&self);"#,
        &[(
            r#""""#,
            "a wire name cannot be empty; remove `name` to use the name of the method",
        )],
    );
}

#[test]
fn wire_name_with_control_characters() {
    assert_method(
        r#"#[rpc(name = "a\nb")] async fn f(&self);"#,
        &[(
            r#""a\nb""#,
            "a wire name cannot contain control characters; write a printable one",
        )],
    );
}

#[test]
fn wire_name_reserved() {
    assert_method(
        r#"#[rpc(name = "rpc.describe")] async fn f(&self);"#,
        &[(
            r#""rpc.describe""#,
            "wire names starting with `rpc.` are reserved for built-in methods; choose another prefix",
        )],
    );
}

#[test]
fn wire_name_twice() {
    assert_method(
        r#"async fn get(&self); #[rpc(name = "get")] async fn fetch(&self);"#,
        &[(
            r#""get""#,
            r#"`get` already has the wire name `get`; give this method another with `#[rpc(name = "..")]`"#,
        )],
    );
}

#[test]
fn wire_name_twice_by_the_method_s_name() {
    assert_method(
        r#"#[rpc(name = "get")] async fn fetch(&self); async fn get(&self);"#,
        &[(
            "get",
            r#"`fetch` already has the wire name `get`; give this method another with `#[rpc(name = "..")]`"#,
        )],
    );
}

#[test]
fn two_default_methods() {
    assert_method(
        "#[rpc(default)] async fn f(&self); #[rpc(default)] async fn g(&self);",
        &[(
            "default",
            "`f` is the default method already; remove `default` from one",
        )],
    );
}

#[test]
fn oneway_with_a_result() {
    assert_method(
        "#[rpc(oneway)] async fn f(&self) -> u8;",
        &[(
            "u8",
            "a one-way method has no reply; remove its return type, or `oneway`",
        )],
    );
}

#[test]
fn errors_of_one_way_methods() {
    assert_method(
        "#[rpc(oneway)] async fn f(&self) -> Result<(), E>;",
        &[(
            "Result<(), E>",
            "nobody would see the error of a one-way method that runs at most once; add `idempotent` to make it a job, which is kept if it fails, or remove the return type",
        )],
    );
    assert_method(
        "#[rpc(oneway, idempotent)] async fn f(&self) -> Result<u8, E>;",
        &[(
            "Result<u8, E>",
            "a one-way method has no reply; return `Result<(), E>`",
        )],
    );
}

#[test]
fn retries_of_a_method_that_is_not_a_job() {
    for options in ["", "idempotent, ", "oneway, "] {
        assert_method(
            &format!("#[rpc({options}retry = \"1 times, 1s\")] async fn f(&self);"),
            &[(
                "\"1 times, 1s\"",
                "only jobs are retried by workers; add `oneway, idempotent`, or let the caller repeat the call",
            )],
        );
    }
}

#[test]
fn cancel_where_it_has_no_effect() {
    for (options, message) in [
        (
            "idempotent",
            "`idempotent` methods are always cancelled with their calls; remove `cancel`",
        ),
        ("oneway", "nobody waits for a one-way method; remove `cancel`"),
        (
            "oneway, idempotent",
            "nobody waits for a one-way method; remove `cancel`",
        ),
        ("broadcast", "a broadcast is not cancelled; remove `cancel`"),
    ] {
        assert_method(
            &format!("#[rpc({options}, cancel)] async fn f(&self);"),
            &[("cancel", message)],
        );
    }
}

#[test]
fn misspelt_retries() {
    let usage = "write how often and after how long, such as `retry = \"5 times, 1s to 5m\"`";
    for (retry, message) in [
        ("5 times", usage.to_owned()),
        ("5, 1s", format!("a job is retried 1 to 1000 times; {usage}")),
        (
            "0 times, 1s",
            format!("a job is retried 1 to 1000 times; {usage}"),
        ),
        (
            "2 times, 1m to 1s",
            format!("the first delay is longer than the last; {usage}"),
        ),
        (
            "2 times, 1s to 8days",
            "the delay before a retry is a whole number of milliseconds, from 1ms to 7days".to_owned(),
        ),
        (
            "2 times, 1500us",
            "the delay before a retry is a whole number of milliseconds, from 1ms to 7days".to_owned(),
        ),
        (
            "2 times, 0s",
            "the delay before a retry is a whole number of milliseconds, from 1ms to 7days".to_owned(),
        ),
        (
            "2 times, 5",
            format!("time unit needed, for example 5sec or 5ms; {usage}"),
        ),
    ] {
        assert_method(
            &format!("#[rpc(oneway, idempotent, retry = \"{retry}\")] async fn f(&self);"),
            &[(&format!("\"{retry}\""), &message)],
        );
    }
}

#[test]
fn wire_name_too_long() {
    let name = "n".repeat(256);
    let message = "a wire name is at most 255 bytes long; write a shorter one with `#[rpc(name = \"..\")]`";
    let method = format!("#[rpc(name = \"{name}\")] async fn f(&self);");
    assert_method(&method, &[(&format!("\"{name}\""), message)]);
    let method = format!("async fn {name}(&self);");
    assert_method(&method, &[(&name, message)]);
}

#[test]
fn every_bad_option_of_a_list() {
    assert_method(
        r#"#[rpc(, "f", timeout(2s), name = , idempotent oneway more, default =)] async fn f(&self);"#,
        &[
            (",", "expected an option; write `default`"),
            (r#""f""#, "expected an option; write `default`"),
            ("(", "options take their value after `=`; write `timeout = ..`"),
            ("=", r#"there is no value after `=`; write `name = "wire.name"`"#),
            ("oneway", "expected `,`"),
            ("=", "there is no value after `=`; write `default`"),
        ],
    );
}

#[test]
fn an_option_after_a_bad_one() {
    assert_method(
        r#"#[rpc(timeout = +, name = "rpc.f", retries)] async fn f(&self);"#,
        &[
            ("+", "expected an expression"),
            (
                "retries",
                "unknown option `retries`; the options of a method are: `default`, `idempotent`, `cancel`, `oneway`, `broadcast`, `retry`, `timeout`, `name`",
            ),
            (
                r#""rpc.f""#,
                "wire names starting with `rpc.` are reserved for built-in methods; choose another prefix",
            ),
        ],
    );
}

#[test]
fn conditional_options_of_a_method() {
    let message =
        "options cannot depend on a condition; write the method twice, each under its own `#[cfg(..)]`";
    assert_method(
        "#[cfg_attr(unix, rpc(default))] async fn f(&self);
        #[cfg_attr(all(unix, test), cfg_attr(windows, must_use, rpc(idempotent)))] async fn g(&self);",
        &[("rpc(default)", message), ("rpc(idempotent)", message)],
    );
}

#[test]
fn options_that_mean_nothing_for_a_broadcast() {
    assert_method(
        "#[rpc(broadcast, idempotent)] async fn f(&self);",
        &[(
            "idempotent",
            "a broadcast is sent once, and no worker runs it twice; remove `idempotent`",
        )],
    );
    assert_method(
        "#[rpc(broadcast, default)] async fn f(&self);",
        &[(
            "default",
            "a request without a method goes to one worker, so the default method cannot be a broadcast; remove one",
        )],
    );
    assert_method(
        "#[rpc(broadcast, retry = \"5 times, 1s to 5m\")] async fn f(&self);",
        &[(
            "\"5 times, 1s to 5m\"",
            "no worker retries a broadcast; remove `retry`",
        )],
    );
    assert_method(
        "#[rpc(broadcast, oneway)] async fn f(&self) -> Result<(), E>;",
        &[(
            "Result<(), E>",
            "nobody would see the error of a one-way broadcast; remove the return type, or `oneway`",
        )],
    );
    assert_method(
        "#[rpc(broadcast, oneway)] async fn f(&self) -> u8;",
        &[(
            "u8",
            "a one-way method has no reply; remove its return type, or `oneway`",
        )],
    );
}

#[test]
fn a_value_of_a_flag_is_reported_once_beside_broadcast() {
    assert_method(
        "#[rpc(broadcast = true, default = 1)] async fn f(&self);",
        &[
            ("1", "`default` takes no value; write `default`"),
            ("true", "`broadcast` takes no value; write `broadcast`"),
            (
                "default",
                "a request without a method goes to one worker, so the default method cannot be a broadcast; remove one",
            ),
        ],
    );
}

#[test]
fn options_that_mean_nothing_for_a_stream() {
    for (options, at, message) in [
        (
            "oneway",
            "oneway",
            "a stream is a reply, and a one-way method has none; remove `oneway`",
        ),
        (
            "broadcast",
            "broadcast",
            "one worker sends a stream; remove `broadcast`",
        ),
        (
            "cancel",
            "cancel",
            "a stream always ends with its call; remove `cancel`",
        ),
        (
            "default, idempotent",
            "default",
            "a request without a method expects one result; remove `default`",
        ),
        (
            "retry = \"5 times, 1s to 5m\"",
            "\"5 times, 1s to 5m\"",
            "no worker retries a stream; remove `retry`",
        ),
    ] {
        let method = format!("#[rpc({options})] fn f(&self) -> impl Stream<Item = u8>;");
        assert_method(&method, &[(at, message)]);
    }
}

#[test]
fn options_that_mean_nothing_for_a_stream_of_the_caller() {
    for (options, at, message) in [
        (
            "oneway",
            "oneway",
            "a caller that sends a stream waits for the reply; remove `oneway`",
        ),
        (
            "broadcast",
            "broadcast",
            "one worker receives a stream; remove `broadcast`",
        ),
        (
            "cancel",
            "cancel",
            "a method that receives a stream always ends with its call; remove `cancel`",
        ),
        (
            "default, idempotent",
            "default",
            "a request without a method sends no stream; remove `default`",
        ),
        (
            "retry = \"5 times, 1s to 5m\"",
            "\"5 times, 1s to 5m\"",
            "no worker retries a stream; remove `retry`",
        ),
    ] {
        let method = format!("#[rpc({options})] async fn f(&self, a: Incoming<u8>);");
        assert_method(&method, &[(at, message)]);
    }
}

#[test]
fn resume_where_nothing_is_resumed() {
    let stream = "-> impl Stream<Item = u8>";
    for (method, message) in [
        (
            format!("fn f(&self, #[rpc(resume)] after: Option<u8>) {stream};"),
            "a stream is resumed by calling its method again; add `#[rpc(idempotent)]`",
        ),
        (
            "#[rpc(idempotent)] async fn f(&self, #[rpc(resume)] after: Option<u8>) -> u8;".to_owned(),
            "only a stream is resumed; return `impl Stream<Item = T>`, or remove `resume`",
        ),
        (
            format!(
                "#[rpc(idempotent)] fn f(&self, #[rpc(resume)] after: Option<u8>, more: Incoming<u8>) {stream};"
            ),
            "the caller's stream cannot be sent again; remove `resume`",
        ),
        (
            format!("#[rpc(idempotent)] fn f(&self, #[rpc(resume)] more: Incoming<u8>) {stream};"),
            "the caller's stream cannot be sent again; remove `resume`",
        ),
        (
            format!("#[rpc(idempotent)] fn f(&self, #[rpc(resume, context)] cx: &Context) {stream};"),
            "the context is not sent; remove `resume`",
        ),
        (
            format!(
                "#[rpc(idempotent)] fn f(&self, a: Option<u8>, #[rpc(resume)] #[serde(with = \"m\")] b: Option<u8>) {stream};"
            ),
            "the last item is encoded as it is in the stream; remove what `#[serde]` changes in it",
        ),
    ] {
        assert_method(&method, &[("resume", message)]);
    }
    for item in ["Option<u8>", "()", "Result<Option<u8>, u8>"] {
        assert_method(
            &format!(
                "#[rpc(idempotent)] fn f(&self, #[rpc(resume)] a: Option<Option<u8>>) -> impl Stream<Item = {item}>;"
            ),
            &[(
                "resume",
                "an empty item would begin the stream anew; return another type of items, or remove `resume`",
            )],
        );
    }
    assert_method(
        &format!("#[rpc(idempotent)] fn f(&self, #[rpc(resume)] after: u64) {stream};"),
        &[(
            "u64",
            "this is the last item that the caller got, if any; write `Option<T>`",
        )],
    );
    assert_method(
        "#[rpc(resume)] async fn f(&self);",
        &[("resume", "`resume` is an option of a parameter, not of a method")],
    );
}

#[test]
fn resume_twice() {
    assert_method(
        "#[rpc(idempotent)] fn f(&self, #[rpc(resume)] a: Option<u8>, #[rpc(resume)] b: Option<u8>) -> impl Stream<Item = u8>;",
        &[(
            "resume",
            "one argument gets the last item; remove the second `resume`",
        )],
    );
}

#[test]
fn flag_with_parentheses() {
    assert_method(
        "#[rpc(idempotent(true))] async fn f(&self, #[rpc(context())] cx: &Context);",
        &[
            ("(", "`idempotent` takes no value; write `idempotent`"),
            ("(", "`context` takes no value; write `context`"),
        ],
    );
    super::assert_arguments(
        "schema(true)",
        &[("(", "`schema` takes no value; write `schema`")],
    );
}

#[test]
fn a_value_of_a_flag_is_reported_once_on_a_stream() {
    assert_method(
        "#[rpc(default = 1)] fn f(&self) -> impl Stream<Item = u8>;",
        &[
            ("1", "`default` takes no value; write `default`"),
            (
                "default",
                "a request without a method expects one result; remove `default`",
            ),
        ],
    );
}
