//! Faults of `#[serde(..)]` on a parameter.

use super::assert_method;

#[test]
fn serde_on_the_context() {
    assert_method(
        "async fn f(&self, #[rpc(context)] #[serde(default)] cx: &Context);",
        &[(
            "#[serde(default)]",
            "the context is not sent; remove this attribute",
        )],
    );
}

#[test]
fn skipped_argument() {
    assert_method(
        "async fn f(&self, #[serde(skip)] a: u8);",
        &[(
            "skip",
            "an argument that is skipped reaches no worker; remove the parameter",
        )],
    );
}

#[test]
fn one_sided_rename() {
    assert_method(
        "async fn f(&self, #[serde(rename(serialize = \"b\"))] a: u8);",
        &[(
            "rename(serialize = \"b\")",
            "an argument has one name for caller and worker; write `rename = \"..\"`, and `alias = \"..\"` for an older one",
        )],
    );
}

#[test]
fn duplicate_argument_names() {
    assert_method(
        "async fn f(&self, b: u8, #[serde(rename = \"b\")] a: u8);",
        &[(
            "\"b\"",
            "`b` already has the wire name `b`; give this argument another",
        )],
    );
}
