//! Faults of a parameter: its name, its attributes, the context.

use super::assert_method;

#[test]
fn pattern() {
    assert_method(
        "async fn f(&self, (a, b): (u8, u8));",
        &[(
            "(a, b)",
            "arguments are sent by name; write a name here, and destructure it in the implementation",
        )],
    );
}

#[test]
fn mutable_binding() {
    assert_method(
        "async fn f(&self, mut a: u8);",
        &[("mut a", "arguments are sent by name; write only `a`")],
    );
}

#[test]
fn wildcard() {
    assert_method(
        "async fn f(&self, _: u8);",
        &[("_", "arguments are sent by name; write a name instead of `_`")],
    );
}

#[test]
fn attribute_on_a_parameter() {
    assert_method(
        "async fn f(&self, #[inline] a: u8);",
        &[(
            "#[inline]",
            "a parameter takes `#[rpc(..)]` and `#[serde(..)]` only; write this one on the method",
        )],
    );
}

#[test]
fn conditional_parameter() {
    let message =
        "a parameter cannot depend on a condition; write the method twice, each under its own `#[cfg(..)]`";
    assert_method(
        "async fn f(&self, #[cfg(unix)] a: u8, #[cfg_attr(test, cfg(unix))] b: u8);",
        &[
            ("#[cfg(unix)]", message),
            ("#[cfg_attr(test, cfg(unix))]", message),
        ],
    );
}

#[test]
fn conditional_options_of_a_parameter() {
    let message =
        "options cannot depend on a condition; write the method twice, each under its own `#[cfg(..)]`";
    assert_method(
        "async fn f(&self, #[cfg_attr(unix, serde(default))] a: u8, #[cfg_attr(unix, rpc(context))] b: &Context);",
        &[
            ("#[cfg_attr(unix, serde(default))]", message),
            ("#[cfg_attr(unix, rpc(context))]", message),
        ],
    );
}

#[test]
fn method_option_on_a_parameter() {
    assert_method(
        "async fn f(&self, #[rpc(idempotent)] a: u8);",
        &[(
            "idempotent",
            "`idempotent` is an option of a method, not of a parameter",
        )],
    );
}

#[test]
fn two_contexts() {
    assert_method(
        "async fn f(&self, #[rpc(context)] a: &Context, #[rpc(context)] b: &Context);",
        &[("context", "a method has one context; remove the second")],
    );
}

#[test]
fn rpc_without_options_on_a_parameter() {
    let message = "`#[rpc()]` has no options; write `#[rpc(context)]` or `#[rpc(resume)]`, or remove it";
    assert_method(
        "async fn f(&self, #[rpc()] cx: &Context, #[rpc()] a: u8);",
        &[("#[rpc()]", message), ("#[rpc()]", message)],
    );
}

#[test]
fn context_by_value() {
    assert_method(
        "async fn f(&self, #[rpc(context)] cx: Context);",
        &[(
            "Context",
            "the context is lent to the method; take a reference, such as `&Context`",
        )],
    );
}

#[test]
fn mutable_context() {
    assert_method(
        "async fn f(&self, #[rpc(context)] cx: &mut Context);",
        &[(
            "mut",
            "changes are not sent back to the caller; take `&`, and return what has changed",
        )],
    );
}

#[test]
fn too_many_arguments() {
    assert_method(
        "async fn f(&self, #[rpc(context)] cx: &Context, a1: u8, a2: u8, a3: u8, a4: u8, a5: u8, a6: u8, a7: u8, a8: u8, a9: u8, a10: u8, a11: u8, a12: u8, a13: u8, a14: u8, a15: u8, a16: u8, a17: u8, a18: u8);",
        &[(
            "a17: u8",
            "a method takes at most 16 arguments; group them in a struct",
        )],
    );
}

#[test]
fn underscore_before_a_name() {
    assert_method(
        "async fn f(&self, _a: u8, #[serde(default)] _b: u8) { }",
        &[
            (
                "_a",
                r#"`_a` would be the argument's name on the wire; remove the underscore, or add `#[serde(rename = "..")]`"#,
            ),
            (
                "_b",
                r#"`_b` would be the argument's name on the wire; remove the underscore, or add `#[serde(rename = "..")]`"#,
            ),
        ],
    );
}

#[test]
fn streams_of_the_caller() {
    let own = "a stream that the caller sends is a parameter of its own; write `name: Incoming<T>`";
    for (parameters, at, message) in [
        (
            "a: Incoming<u8>, b: Incoming<u8>",
            "b: Incoming<u8>",
            "a caller sends one stream; remove the second, or use an enum for both",
        ),
        (
            "a: &Incoming<u8>",
            "&Incoming<u8>",
            "the method owns the stream that the caller sends; write `Incoming<T>`",
        ),
        (
            "a: Incoming",
            "Incoming",
            "a parameter of the type `Incoming` is a stream that the caller sends; write `Incoming<T>`, or rename your own type",
        ),
        (
            "a: Incoming<&str>",
            "&str",
            "a reference cannot be decoded here; take a stream of `String` instead",
        ),
        ("a: Option<Incoming<u8>>", "Incoming<u8>", own),
        ("a: (u8, rpc::Incoming<u8>)", "rpc::Incoming<u8>", own),
        (
            "#[serde(default)] a: Incoming<u8>",
            "#[serde(default)]",
            "the items are no argument; write this on the type of the items",
        ),
        (
            "#[rpc(context)] a: Incoming<u8>",
            "Incoming<u8>",
            "the context is lent to the method; take a reference, such as `&Context`",
        ),
    ] {
        assert_method(&format!("async fn f(&self, {parameters});"), &[(at, message)]);
    }
}

#[test]
fn a_context_is_not_resumed() {
    let not_an_option = "this is the last item that the caller got, if any; write `Option<T>`";
    let not_a_stream = "only a stream is resumed; return `impl Stream<Item = T>`, or remove `resume`";
    for (parameters, at) in [
        ("#[rpc(resume)] cx: &Context", "&Context"),
        (
            "#[rpc(context)] a: &Context, #[rpc(resume)] b: &rpc::Context",
            "&rpc::Context",
        ),
    ] {
        assert_method(
            &format!("async fn f(&self, {parameters});"),
            &[(at, not_an_option), ("resume", not_a_stream)],
        );
    }
}

#[test]
fn a_misspelt_context_is_reported_once() {
    assert_method(
        "async fn f(&self, #[rpc(contxt)] cx: &Context);",
        &[(
            "contxt",
            "unknown option `contxt`; did you mean `context`? the options of a parameter are: `context`, `resume`",
        )],
    );
}

#[test]
fn underscore_before_a_raw_name() {
    assert_method(
        "async fn f(&self, r#_a: u8) { }",
        &[(
            "r#_a",
            r#"`_a` would be the argument's name on the wire; remove the underscore, or add `#[serde(rename = "..")]`"#,
        )],
    );
}
