//! Faults of a method's signature.

use super::assert_method;

#[test]
fn not_async() {
    assert_method(
        "fn ping(&self);",
        &[("fn", "service methods are async; write `async fn ping`")],
    );
}

#[test]
fn default_fn() {
    assert_method(
        "default async fn f(&self);",
        &[(
            "default async fn f(&self);",
            "a service has plain methods only; write `async fn name(&self)`",
        )],
    );
}

#[test]
fn const_method() {
    assert_method(
        "const async fn f(&self);",
        &[("const", "a service method cannot be const; remove `const`")],
    );
}

#[test]
fn const_method_that_is_not_async() {
    assert_method(
        "const fn f(&self);",
        &[
            ("const", "a service method cannot be const; remove `const`"),
            ("fn", "service methods are async; write `async fn f`"),
        ],
    );
}

#[test]
fn unsafe_method() {
    assert_method(
        "async unsafe fn f(&self);",
        &[("unsafe", "a service method cannot be unsafe; remove `unsafe`")],
    );
}

#[test]
fn extern_method() {
    assert_method(
        r#"async extern "C" fn f(&self);"#,
        &[(
            r#"extern "C""#,
            "a service method cannot be extern; remove the ABI",
        )],
    );
}

#[test]
fn generic_method() {
    assert_method(
        "async fn f<T>(&self, t: T);",
        &[(
            "T",
            "service methods cannot be generic; use concrete types, or write one method for each type",
        )],
    );
}

#[test]
fn method_where_clause() {
    assert_method(
        "async fn f(&self) where u8: Copy;",
        &[(
            "where u8: Copy",
            "service methods cannot have a `where` clause; use concrete types instead",
        )],
    );
}

#[test]
fn variadic() {
    assert_method(
        "async fn f(&self, ...);",
        &[(
            "...",
            "service methods cannot be variadic; take a slice, such as `&[String]`",
        )],
    );
}

#[test]
fn reserved_name() {
    assert_method(
        "async fn new(&self);",
        &[(
            "new",
            r#"the client has its own function `new`; choose another name and keep this one on the wire with `#[rpc(name = "new")]`"#,
        )],
    );
}

#[test]
fn names_that_the_prelude_has_for_every_type() {
    assert_method(
        "async fn into(&self) -> u8; async fn try_into(&self);",
        &[
            (
                "into",
                r#"on the client, `into` would be that of `Into`, which every type has; choose another name and keep this one on the wire with `#[rpc(name = "into")]`"#,
            ),
            (
                "try_into",
                r#"on the client, `try_into` would be that of `TryInto`, which every type has; choose another name and keep this one on the wire with `#[rpc(name = "try_into")]`"#,
            ),
        ],
    );
}

#[test]
fn reserved_raw_name() {
    assert_method(
        "async fn r#builder(&self);",
        &[(
            "r#builder",
            r#"the client has its own function `builder`; choose another name and keep this one on the wire with `#[rpc(name = "builder")]`"#,
        )],
    );
}

#[test]
fn no_receiver() {
    assert_method(
        "async fn f(id: u8);",
        &[("f", "service methods take `&self`; write `async fn f(&self, ..)`")],
    );
}

#[test]
fn stream_without_receiver() {
    assert_method(
        "fn f(id: u8) -> impl Stream<Item = u8>;",
        &[("f", "service methods take `&self`; write `fn f(&self, ..)`")],
    );
}

#[test]
fn receiver_by_value() {
    assert_method(
        "async fn f(self);",
        &[("self", "a service outlives each call; write `&self`")],
    );
}

#[test]
fn mutable_receiver() {
    assert_method(
        "async fn f(&mut self);",
        &[(
            "&mut self",
            "calls share the service, so none has exclusive access; write `&self`, and put what changes behind a lock",
        )],
    );
}

#[test]
fn typed_receiver() {
    assert_method(
        "async fn f(self: Arc<Self>);",
        &[("self: Arc<Self>", "calls borrow the service; write `&self`")],
    );
}

#[test]
fn receiver_with_a_lifetime() {
    assert_method(
        "async fn f(&'a self);",
        &[(
            "&'a self",
            "lifetimes have no meaning across the network; write `&self`",
        )],
    );
}

#[test]
fn rpc_on_the_receiver() {
    assert_method(
        "async fn f(#[rpc(context)] &self);",
        &[("#[rpc(context)]", "`&self` takes no options; remove `#[rpc]`")],
    );
}

#[test]
fn other_attributes_on_the_receiver() {
    let message = "`&self` takes no attributes; remove this one";
    for attribute in [
        "#[cfg(unix)]",
        "#[cfg_attr(unix, rpc(context))]",
        "#[serde(default)]",
        "#[allow(unused)]",
    ] {
        assert_method(
            &format!("async fn f({attribute} &self);"),
            &[(attribute, message)],
        );
    }
}

#[test]
fn receivers_in_full() {
    assert_method(
        "async fn f(self: &Self); async fn g(self: &mut Self); async fn h(self: &'a Self);",
        &[
            ("self: &Self", "this is the long form of `&self`; write `&self`"),
            (
                "self: &mut Self",
                "calls share the service, so none has exclusive access; write `&self`, and put what changes behind a lock",
            ),
            (
                "self: &'a Self",
                "lifetimes have no meaning across the network; write `&self`",
            ),
        ],
    );
}

#[test]
fn names_of_generated_code() {
    let message = |name: &str| {
        format!("names that begin with two underscores are reserved for generated code; rename `{name}`")
    };
    let item = r#"trait S<__T: __Bound + for<'__de> Deserialize<'__de>>: __Super {
        async fn __f(&self, #[rpc(context)] __cx: &__Context, __a: [u8; __N]) -> Vec<__Item>;
        async fn g(&self, #[serde(with = "__bytes")] r#__b: module::__Item, c: ::__d::E) -> krate::__Private<__T> {
            let __local = self.f();
        }
    }"#;
    let expected = [
        "__T",
        "__Bound",
        "__Super",
        "__f",
        "__cx",
        "__Context",
        "__a",
        "__N",
        "__Item",
        "r#__b",
        "__T",
        "\"__bytes\"",
    ];
    let expected = expected.map(|at| (at, message(at.trim_start_matches("r#").trim_matches('"'))));
    let refused: Vec<_> = expected
        .iter()
        .map(|(at, message)| (*at, message.as_str()))
        .collect();
    super::assert_item(item, &refused);
}

#[test]
fn a_crate_named_like_generated_code() {
    super::assert_arguments(
        "crate = __serde::rpc",
        &[(
            "__serde",
            "names that begin with two underscores are reserved for generated code; rename `__serde`",
        )],
    );
}

#[test]
fn async_method_with_a_stream() {
    assert_method(
        "async fn f(&self) -> impl Stream<Item = u8>;",
        &[(
            "async",
            "a method that returns a stream is not async; write `fn f`",
        )],
    );
}

#[test]
fn stream_without_items() {
    for (method, output) in [
        ("fn f(&self) -> impl Stream;", "impl Stream"),
        (
            "fn f(&self) -> impl futures::Stream + Send;",
            "impl futures::Stream + Send",
        ),
    ] {
        assert_method(
            method,
            &[(
                output,
                "the items of a stream need a type; write `impl Stream<Item = T>`",
            )],
        );
    }
}

#[test]
fn stream_of_borrowed_items() {
    assert_method(
        "fn f(&self) -> impl Stream<Item = &str>;",
        &[(
            "&str",
            "a reference cannot be decoded here; return `String` instead",
        )],
    );
}

#[test]
fn impl_of_another_trait() {
    assert_method(
        "fn f(&self) -> impl Iterator<Item = u8>;",
        &[
            ("fn", "service methods are async; write `async fn f`"),
            (
                "impl Iterator<Item = u8>",
                "`impl Trait` names no type to decode; return a concrete type instead",
            ),
        ],
    );
}
