//! What is refused: which tokens are underlined, and with what words.

use proc_macro2::TokenStream;

use crate::{expand_service, parse};

/// The refusals of an item under `#[service(arguments)]`: what is underlined, and the message.
fn refusals(arguments: &str, item: &str) -> Vec<(String, String)> {
    let Err(refusal) = parse::service(tokens(arguments), tokens(item)) else {
        return Vec::new();
    };
    let refusal = refusal.reasons.into_iter();
    refusal
        .map(|error| (error.span().source_text().unwrap_or_default(), error.to_string()))
        .collect()
}

fn tokens(source: &str) -> TokenStream {
    source.parse().expect("the test's own source is made of tokens")
}

/// The item is refused for these reasons, and emitted again once, without our attributes.
#[track_caller]
fn assert_refused(arguments: &str, item: &str, expected: &[(&str, &str)]) {
    let refusals = refusals(arguments, item);
    let refusals: Vec<_> = refusals
        .iter()
        .map(|(at, message)| (at.as_str(), message.as_str()))
        .collect();
    assert_eq!(refusals, expected);

    let emitted = expand_service(tokens(arguments), tokens(item)).to_string();
    assert_eq!(
        emitted.matches("trait S").count(),
        item.matches("trait S").count(),
        "{emitted}"
    );
    assert!(!emitted.contains("# [rpc"), "{emitted}");
}

#[track_caller]
fn assert_item(item: &str, expected: &[(&str, &str)]) {
    assert_refused("", item, expected);
}

#[track_caller]
fn assert_arguments(arguments: &str, expected: &[(&str, &str)]) {
    assert_refused(arguments, "trait S { async fn f(&self); }", expected);
}

#[track_caller]
fn assert_method(methods: &str, expected: &[(&str, &str)]) {
    assert_refused("", &format!("trait S {{ {methods} }}"), expected);
}

// The item

#[test]
fn not_a_trait() {
    assert_item(
        "struct S { x: u8 }",
        &[(
            "struct S { x: u8 }",
            "`#[service]` goes on a trait; write the service's methods as a `trait`",
        )],
    );
}

#[test]
fn an_implementation() {
    assert_item(
        "impl S for X {}",
        &[(
            "impl S for X {}",
            "`#[service]` goes on the trait; an implementation needs no attribute, so remove this one",
        )],
    );
}

#[test]
fn trait_lifetime() {
    assert_item(
        "trait S<'a, T: 'static> { async fn f(&self); }",
        &[(
            "'a",
            "lifetimes have no meaning across the network; remove this one",
        )],
    );
}

#[test]
fn bounds_on_self() {
    let message =
        "the client is no `Self` of this trait; write what implementations have to be as supertraits";
    assert_item(
        "trait S<T: From<Self>> where Self: Sized, T: Debug { async fn f(&self); }",
        &[("From<Self>", message), ("Self: Sized", message)],
    );
}

#[test]
fn unsafe_trait() {
    assert_item(
        "unsafe trait S { async fn f(&self); }",
        &[("unsafe", "a service trait cannot be unsafe; remove `unsafe`")],
    );
}

#[test]
fn auto_trait() {
    assert_item(
        "auto trait S {}",
        &[("auto", "a service trait cannot be an auto trait; remove `auto`")],
    );
}

#[test]
fn associated_constant() {
    assert_item(
        "trait S { const N: usize; }",
        &[(
            "const N: usize;",
            "a service has no constants; return the value from a method",
        )],
    );
}

#[test]
fn associated_type() {
    assert_item(
        "trait S { type T; }",
        &[(
            "type T;",
            "a service has no associated types; name the type in the methods",
        )],
    );
}

#[test]
fn macro_in_the_trait() {
    assert_item(
        "trait S { methods!(); }",
        &[(
            "methods!();",
            "macros are not expanded in a service trait; write the methods out",
        )],
    );
}

#[test]
fn anything_else_in_the_trait() {
    assert_item(
        "trait S { pub async fn f(&self); }",
        &[(
            "pub async fn f(&self);",
            "a service has plain methods only; write `async fn name(&self)`",
        )],
    );
}

#[test]
fn rpc_on_the_trait() {
    assert_item(
        "#[rpc(idempotent)] trait S { async fn f(&self); }",
        &[(
            "#[rpc(idempotent)]",
            "`#[rpc]` goes on methods; write options of the whole service as `#[service(..)]`",
        )],
    );
}

#[test]
fn rpc_on_a_constant() {
    assert_item(
        "trait S { #[rpc(idempotent)] const N: usize; }",
        &[
            ("#[rpc(idempotent)]", "`#[rpc]` goes on methods; remove it here"),
            (
                "#[rpc(idempotent)] const N: usize;",
                "a service has no constants; return the value from a method",
            ),
        ],
    );
}

// Options of the service

#[test]
fn unknown_service_option() {
    assert_arguments(
        r#"queu = "a""#,
        &[(
            "queu",
            "unknown option `queu`; did you mean `queue`? the options of a service are: `queue`, `crate`",
        )],
    );
}

#[test]
fn misplaced_service_option() {
    assert_arguments(
        r#"timeout = "2s""#,
        &[("timeout", "`timeout` is an option of a method, not of a service")],
    );
}

#[test]
fn service_option_twice() {
    assert_arguments(
        r#"queue = "a", queue = "b""#,
        &[("queue", "option `queue` is given twice; remove one")],
    );
}

#[test]
fn queue_without_value() {
    assert_arguments(
        "queue",
        &[("queue", r#"`queue` needs a value; write `queue = "rpc_queue"`"#)],
    );
}

#[test]
fn queue_not_a_string() {
    assert_arguments(
        "queue = orders",
        &[("orders", r#"`queue` takes a string; write `queue = "rpc_queue"`"#)],
    );
}

#[test]
fn queue_in_parentheses() {
    assert_arguments(
        r#"queue("orders")"#,
        &[("(", "options take their value after `=`; write `queue = ..`")],
    );
}

#[test]
fn queue_name_alone() {
    assert_arguments(
        r#""orders""#,
        &[(
            r#""orders""#,
            r#"expected an option; write `queue = "rpc_queue"`"#,
        )],
    );
}

#[test]
fn queue_empty() {
    assert_arguments(
        r#"queue = """#,
        &[(
            r#""""#,
            "a queue name cannot be empty; remove `queue` to use the name of the trait",
        )],
    );
}

#[test]
fn queue_reserved() {
    assert_arguments(
        r#"queue = "amq.orders""#,
        &[(
            r#""amq.orders""#,
            "queue names starting with `amq.` are reserved by RabbitMQ; choose another prefix",
        )],
    );
}

#[test]
fn crate_without_value() {
    assert_arguments(
        "crate",
        &[(
            "crate",
            "`crate` needs a value; write `crate = path::to::rpc_runtime`",
        )],
    );
}

#[test]
fn crate_not_a_path() {
    assert_arguments(
        r#"crate = "rpc_runtime""#,
        &[(
            r#""rpc_runtime""#,
            "`crate` takes a path; write `crate = path::to::rpc_runtime`",
        )],
    );
}

#[test]
fn options_not_separated() {
    assert_arguments(r#"queue = "a" crate = b"#, &[("crate", "expected `,`")]);
}

// Options of a method

#[test]
fn misspelt_method_option() {
    assert_method(
        "#[rpc(idempotnt)] async fn f(&self);",
        &[(
            "idempotnt",
            "unknown option `idempotnt`; did you mean `idempotent`? the options of a method are: `default`, `idempotent`, `oneway`, `timeout`, `name`",
        )],
    );
}

#[test]
fn unknown_method_option() {
    assert_method(
        "#[rpc(retries = 3)] async fn f(&self);",
        &[(
            "retries",
            "unknown option `retries`; the options of a method are: `default`, `idempotent`, `oneway`, `timeout`, `name`",
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
            r#"a timeout is a whole number and one of `ms`, `s`, `m`, `h`; write `timeout = "2s"`"#,
        )],
    );
}

#[test]
fn timeout_without_number() {
    assert_method(
        r#"#[rpc(timeout = "s")] async fn f(&self);"#,
        &[(
            r#""s""#,
            r#"a timeout is a whole number and one of `ms`, `s`, `m`, `h`; write `timeout = "2s"`"#,
        )],
    );
}

#[test]
fn timeout_with_a_fraction() {
    assert_method(
        r#"#[rpc(timeout = "1.5s")] async fn f(&self);"#,
        &[(
            r#""1.5s""#,
            r#"a timeout is a whole number and one of `ms`, `s`, `m`, `h`; write `timeout = "2s"`"#,
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
            "a timeout is at most 49 days, which is as long as RabbitMQ lets a message live",
        )],
    );
}

#[test]
fn timeout_beyond_all_numbers() {
    assert_method(
        r#"#[rpc(timeout = "99999999999999999999999h")] async fn f(&self);"#,
        &[(
            r#""99999999999999999999999h""#,
            "a timeout is at most 49 days, which is as long as RabbitMQ lets a message live",
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
            "a one-way method is never answered; remove its return type, or `oneway`",
        )],
    );
}

#[test]
fn oneway_and_idempotent() {
    assert_method(
        "#[rpc(oneway, idempotent)] async fn f(&self);",
        &[(
            "idempotent",
            "a one-way method is never repeated; remove `idempotent`, or `oneway`",
        )],
    );
}

// Methods

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
fn receiver_by_value() {
    assert_method(
        "async fn f(self);",
        &[(
            "self",
            "a service outlives each call, so no call can take it; write `&self`",
        )],
    );
}

#[test]
fn mutable_receiver() {
    assert_method(
        "async fn f(&mut self);",
        &[(
            "&mut self",
            "calls run side by side on one service, so none has it to itself; write `&self`, and lock what changes",
        )],
    );
}

#[test]
fn typed_receiver() {
    assert_method(
        "async fn f(self: Arc<Self>);",
        &[(
            "self: Arc<Self>",
            "a service outlives each call, so no call can take it; write `&self`",
        )],
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

// Parameters

#[test]
fn pattern() {
    assert_method(
        "async fn f(&self, (a, b): (u8, u8));",
        &[(
            "(a, b)",
            "arguments are sent by name; write a name here and take it apart in the implementation",
        )],
    );
}

#[test]
fn mutable_binding() {
    assert_method(
        "async fn f(&self, mut a: u8);",
        &[(
            "mut a",
            "the name goes over the wire, and nothing else of this pattern; write `a`",
        )],
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
        "async fn f(&self, #[cfg(unix)] a: u8);",
        &[(
            "#[cfg(unix)]",
            "a parameter takes `#[rpc(context)]` and `#[serde(..)]` only; write this one on the method",
        )],
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
            "changes made by the worker do not travel back; take `&`, and return what has changed",
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

// Types

#[test]
fn mutable_reference() {
    assert_method(
        "async fn f(&self, a: &mut u8);",
        &[(
            "mut",
            "changes made by the worker do not travel back; take `&`, and return what has changed",
        )],
    );
}

#[test]
fn named_lifetime() {
    assert_method(
        "async fn f(&self, a: &'static str);",
        &[(
            "'static",
            "lifetimes have no meaning across the network; remove this one",
        )],
    );
}

#[test]
fn nested_reference() {
    assert_method(
        "async fn f(&self, a: Option<&str>);",
        &[(
            "&str",
            "a reference cannot be decoded here; take `Option<String>` instead",
        )],
    );
}

#[test]
fn nested_references() {
    assert_method(
        "async fn f(&self, a: HashMap<&str, &[Vec<&'static u8>]>);",
        &[
            (
                "&str",
                "a reference cannot be decoded here; take `HashMap<String, Vec<Vec<u8>>>` instead",
            ),
            (
                "&[Vec<&'static u8>]",
                "a reference cannot be decoded here; take `HashMap<String, Vec<Vec<u8>>>` instead",
            ),
            (
                "&'static u8",
                "a reference cannot be decoded here; take `HashMap<String, Vec<Vec<u8>>>` instead",
            ),
        ],
    );
}

#[test]
fn reference_in_a_slice() {
    assert_method(
        "async fn f(&self, a: &[&str]);",
        &[(
            "&str",
            "a reference cannot be decoded here; take a slice of `String` instead",
        )],
    );
}

#[test]
fn reference_in_a_reference() {
    assert_method(
        "async fn f(&self, a: &Option<&str>);",
        &[(
            "&str",
            "a reference cannot be decoded here; take a reference to `Option<String>` instead",
        )],
    );
}

#[test]
fn borrowing_type() {
    assert_method(
        "async fn f(&self, a: Cow<'a, str>);",
        &[(
            "'a",
            "a type that borrows cannot be decoded; take a type without lifetimes instead",
        )],
    );
}

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

#[test]
fn impl_trait_argument() {
    assert_method(
        "async fn f(&self, a: impl Into<String>);",
        &[(
            "impl Into<String>",
            "`impl Trait` names no type to decode; take a concrete type instead",
        )],
    );
}

#[test]
fn impl_trait_behind_a_reference() {
    assert_method(
        "async fn f(&self, a: &impl AsRef<str>);",
        &[(
            "impl AsRef<str>",
            "`impl Trait` names no type to decode; take a reference to a concrete type instead",
        )],
    );
}

#[test]
fn trait_object() {
    assert_method(
        "async fn f(&self, a: Box<dyn Error>);",
        &[(
            "dyn Error",
            "a trait object cannot be decoded; take a concrete type instead",
        )],
    );
}

#[test]
fn self_type() {
    assert_method(
        "async fn f(&self, a: Self);",
        &[(
            "Self",
            "the client does not know `Self`; take a concrete type instead",
        )],
    );
}

#[test]
fn borrowed_return() {
    assert_method(
        "async fn f(&self) -> &str;",
        &[(
            "&str",
            "a reference cannot be decoded here; return `String` instead",
        )],
    );
}

#[test]
fn borrowed_slice_return() {
    assert_method(
        "async fn f(&self) -> Result<&[u8], Error>;",
        &[(
            "&[u8]",
            "a reference cannot be decoded here; return `Result<Vec<u8>, Error>` instead",
        )],
    );
}

#[test]
fn lifetime_in_the_return_type() {
    assert_method(
        "async fn f(&self) -> Cow<'_, str>;",
        &[(
            "'_",
            "a type that borrows cannot be decoded; return a type without lifetimes instead",
        )],
    );
}

#[test]
fn impl_trait_return() {
    assert_method(
        "async fn f(&self) -> impl Display;",
        &[(
            "impl Display",
            "`impl Trait` names no type to decode; return a concrete type instead",
        )],
    );
}

// Names that are too long, which would be too long here as well

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
fn queue_name_too_long() {
    let name = "n".repeat(256);
    let message =
        "a queue name is at most 255 bytes long; write a shorter one with `#[service(queue = \"..\")]`";
    assert_arguments(
        &format!("queue = \"{name}\""),
        &[(&format!("\"{name}\""), message)],
    );
}

// All at once

#[test]
fn every_fault_is_reported_in_one_compile() {
    let item = "trait S<'a> {
        const N: usize;
        fn f(self, _: u8, a: &mut u8) -> &str;
        #[rpc(timeout = \"2\", name = \"f\", oneway)] async fn g(&self) -> u8;
    }";
    let underlined: Vec<_> = refusals("queu = \"a\"", item)
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    assert_eq!(
        underlined,
        [
            "queu",
            "'a",
            "const N: usize;",
            "fn",
            "&str",
            "self",
            "_",
            "mut",
            "\"f\"",
            "u8",
            "\"2\""
        ]
    );
}

// What is not refused

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
