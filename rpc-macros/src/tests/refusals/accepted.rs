//! Traits without errors.

use super::assert_method;

#[track_caller]
fn assert_accepted(methods: &str) {
    assert_method(methods, &[]);
}

#[test]
fn a_trait_without_methods_is_accepted() {
    assert_accepted("");
}

#[test]
fn options_spread_over_attributes_are_accepted() {
    assert_accepted("#[rpc(default)] #[rpc(idempotent, timeout = \"500ms\",)] #[rpc()] async fn f(&self);");
}

#[test]
fn a_oneway_method_with_a_timeout_is_accepted() {
    assert_accepted("#[rpc(oneway, timeout = \"1h\")] async fn f(&self, a: u8) -> ();");
}

#[test]
fn sixteen_arguments_and_a_context_are_accepted() {
    let arguments: String = (1..=16).map(|n| format!("a{n}: u8, ")).collect();
    assert_accepted(&format!(
        "async fn f(&self, {arguments} #[rpc(context)] cx: &Context);"
    ));
}

#[test]
fn owned_types_that_mention_static_are_accepted() {
    assert_accepted("async fn f(&self, a: Cow<'static, str>) -> Cow<'static, str>;");
}

#[test]
fn alternatives_under_cfg_are_accepted() {
    assert_accepted(
        "#[cfg(unix)] #[rpc(default)] async fn f(&self); #[cfg(windows)] #[rpc(default)] async fn f(&self);",
    );
}

#[test]
fn attributes_of_serde_are_accepted() {
    assert_accepted(
        r#"async fn f(
            &self,
            #[serde(default, rename = "b", alias = "c", alias = "d")] a: u8,
            #[serde(default = "path::to", with = "module")] e: &str,
            #[serde(serialize_with = "write", deserialize_with = "read",)] g: u8,
            #[serde(skip_serializing_if = "Option::is_none")] h: Option<u8>,
            #[serde(default, skip_serializing_if = "is_zero")] i: u8,
            #[serde(skip_serializing_if = "Option::is_none")] j: &Option<u8>,
        );"#,
    );
}

#[test]
fn underscores_of_contexts_and_renamed_arguments_are_accepted() {
    assert_accepted(r#"async fn f(&self, #[rpc(context)] _cx: &Context, #[serde(rename = "a")] _a: u8) { }"#);
}

#[test]
fn streams_of_the_caller_are_accepted() {
    assert_accepted(
        "async fn f(&self, a: &str, parts: Incoming<Vec<u8>>) -> io::Result<u8>; \
         #[rpc(idempotent, timeout = \"2s\", name = \"g.h\")] \
         fn g(&self, lines: rpc_runtime::Incoming<T>, #[serde(default)] a: u8, #[rpc(context)] cx: &Context) \
             -> impl Stream<Item = u8> { body() }",
    );
}

#[test]
fn streams_are_accepted() {
    assert_accepted(
        "fn f(&self, a: &str) -> impl Stream<Item = u8>; \
         #[rpc(idempotent, timeout = \"2s\", name = \"g.h\")] \
         fn g(&self, #[serde(default)] a: u8) -> impl futures::stream::Stream<Item = io::Result<u8>> + Send { body() }",
    );
}

#[test]
fn items_with_two_type_arguments_are_no_results() {
    assert_accepted(
        "#[rpc(idempotent)] \
         fn f(&self, #[rpc(resume)] after: Option<HashMap<Option<u8>, u8>>) \
             -> impl Stream<Item = HashMap<Option<u8>, u8>>;",
    );
}
