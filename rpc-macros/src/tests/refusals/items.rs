//! Errors of items other than traits, and of items in a trait other than methods.

use super::assert_item;

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
fn item_generated_by_mockall() {
    let message =
        "`#[service]` goes above `#[automock]`: mockall has to see the trait that `#[service]` emits";
    for item in [
        "struct MockS {}",
        "impl S for MockS {}",
        "impl<T> S<T> for mocks::MockS<T> {}",
    ] {
        assert_item(item, &[(item, message)]);
    }
    let by_hand = "`#[service]` goes on a trait; write the service's methods as a `trait`";
    assert_item("struct Mockery {}", &[("struct Mockery {}", by_hand)]);
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
    let message = "a bound on `Self` does not apply to the client; write it as a supertrait";
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

#[test]
fn conditional_options_of_the_service() {
    assert_item(
        "#[cfg_attr(unix, deprecated, service(queue = \"a\"))] trait S { async fn f(&self); }",
        &[(
            "service(queue = \"a\")",
            "options cannot depend on a condition; write the trait twice, each under its own `#[cfg(..)]`",
        )],
    );
}
