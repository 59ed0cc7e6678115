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
            "(",
            "an argument has the same name for caller and worker; write `rename = \"..\"`, and `alias = \"..\"` for an older name",
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

#[test]
fn aliases_that_another_argument_has() {
    assert_method(
        r#"async fn f(&self, a: u8, #[serde(alias = "a", alias = "x")] b: u8, #[serde(alias = "x")] c: u8, x: u8);"#,
        &[
            (r#""a""#, "`a` already has the wire name `a`; remove this alias"),
            (r#""x""#, "`b` already has the alias `x`; remove this alias"),
            ("x", "`b` already has the alias `x`; give this argument another"),
        ],
    );
}

#[test]
fn argument_that_is_never_written() {
    assert_method(
        "async fn f(&self, #[serde(skip_serializing)] a: u8);",
        &[(
            "skip_serializing",
            "an argument that is never written reaches no worker; remove the parameter, or leave it out at times with `skip_serializing_if`",
        )],
    );
}

#[test]
fn argument_that_is_never_read() {
    assert_method(
        "async fn f(&self, #[serde(skip_deserializing)] a: u8);",
        &[(
            "skip_deserializing",
            "an argument that is never read reaches no worker; remove the parameter",
        )],
    );
}

#[test]
fn flattened_argument() {
    assert_method(
        "async fn f(&self, #[serde(flatten)] a: u8);",
        &[(
            "flatten",
            "arguments are sent by name, and a flattened one has none; remove `flatten`, or write its fields as parameters",
        )],
    );
}

#[test]
fn borrowing_argument() {
    assert_method(
        "async fn f(&self, #[serde(borrow)] a: u8);",
        &[(
            "borrow",
            "the worker reads owned values if there are attributes of serde; remove `borrow`",
        )],
    );
}

#[test]
fn getter() {
    assert_method(
        r#"async fn f(&self, #[serde(getter = "get")] a: u8);"#,
        &[("getter", "`getter` is for fields of remote types; remove it")],
    );
}

#[test]
fn bounds_of_an_argument() {
    assert_method(
        r#"async fn f(&self, #[serde(bound = "")] a: u8);"#,
        &[("bound", "bounds are written once, on the trait; remove `bound`")],
    );
}

#[test]
fn misspelt_attribute_of_serde() {
    assert_method(
        "async fn f(&self, #[serde(defualt)] a: u8);",
        &[(
            "defualt",
            "unknown attribute `defualt` of serde; did you mean `default`? those of an argument are: `default`, `rename`, `alias`, `with`, `serialize_with`, `deserialize_with`, `skip_serializing_if`",
        )],
    );
}

#[test]
fn unknown_attribute_of_serde() {
    assert_method(
        r#"async fn f(&self, #[serde(tag = "t")] a: u8);"#,
        &[(
            "tag",
            "unknown attribute `tag` of serde; those of an argument are: `default`, `rename`, `alias`, `with`, `serialize_with`, `deserialize_with`, `skip_serializing_if`",
        )],
    );
}

#[test]
fn every_bad_attribute_of_serde() {
    assert_method(
        "async fn f(&self, #[serde(default = , 3, rename, alias = 7, with = mine)] #[serde(flatten)] a: u8);",
        &[
            ("=", "there is no value after `=`; write `default`"),
            ("3", "expected an option; write `default`"),
            ("rename", r#"`rename` needs a value; write `rename = "name"`"#),
            ("7", r#"`alias` takes a string; write `alias = "older_name"`"#),
            ("mine", r#"`with` takes a string; write `with = "module"`"#),
            (
                "flatten",
                "arguments are sent by name, and a flattened one has none; remove `flatten`, or write its fields as parameters",
            ),
        ],
    );
}

#[test]
fn no_path_for_serde() {
    assert_method(
        r#"async fn f(&self, #[serde(with = "a b", default = "")] a: u8);"#,
        &[
            (
                r#""a b""#,
                r#"this is not the path of a function or module; write `with = "module"`"#,
            ),
            (
                r#""""#,
                r#"this is not the path of a function or module; write `default = "function"`"#,
            ),
        ],
    );
}

#[test]
fn serde_without_settings() {
    assert_method(
        "async fn f(&self, #[serde] a: u8);",
        &[(
            "#[serde]",
            "`#[serde]` needs settings in parentheses; write `#[serde(default)]` or remove it",
        )],
    );
}

#[test]
fn attributes_of_serde_twice() {
    assert_method(
        r#"async fn f(&self, #[serde(default, default, with = "m", serialize_with = "f")] #[serde(rename = "b", rename = "c")] a: u8);"#,
        &[
            ("default", "`default` repeats another attribute; remove one"),
            (
                "serialize_with",
                "`serialize_with` repeats another attribute; remove one",
            ),
            ("rename", "`rename` repeats another attribute; remove one"),
        ],
    );
}

#[test]
fn argument_left_out_without_a_default() {
    assert_method(
        r#"async fn f(&self, #[serde(skip_serializing_if = "is_zero")] a: u8);"#,
        &[(
            "skip_serializing_if",
            "the worker needs a value for an argument that was left out; add `default`",
        )],
    );
}

#[test]
fn option_left_out_and_read_by_a_function() {
    assert_method(
        r#"async fn f(&self, #[serde(skip_serializing_if = "Option::is_none", with = "m")] a: Option<u8>);"#,
        &[(
            "skip_serializing_if",
            "the worker needs a value for an argument that was left out; add `default`",
        )],
    );
}
