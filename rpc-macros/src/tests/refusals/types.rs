//! Types that cannot travel.

use super::assert_method;

#[test]
fn mutable_reference() {
    assert_method(
        "async fn f(&self, a: &mut u8);",
        &[(
            "mut",
            "changes are not sent back to the caller; take `&`, and return what has changed",
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
fn nested_reference_to_no_concrete_type() {
    assert_method(
        "async fn f(&self, a: Option<&impl Clone>);",
        &[(
            "impl Clone",
            "`impl Trait` names no type to decode; take a concrete type instead",
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
            "this lifetime has no meaning across the network; write `'_` or `'static`",
        )],
    );
    assert_method(
        "async fn f(&self, a: Incoming<Cow<'_, str>>);",
        &[(
            "'_",
            "a type that borrows cannot be decoded here; write `'static`, or take a stream of a type without lifetimes",
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
fn a_suggested_type_is_accepted() {
    assert_method(
        "async fn f(&self) -> &&str;",
        &[(
            "&&str",
            "a reference cannot be decoded here; return `String` instead",
        )],
    );
    assert_method(
        "async fn f(&self, a: Vec<&&'static str>) -> u8;",
        &[(
            "&&'static str",
            "a reference cannot be decoded here; take `Vec<String>` instead",
        )],
    );
    assert_method(
        "async fn f(&self) -> &dyn Error;",
        &[(
            "dyn Error",
            "a trait object cannot be decoded; return a concrete type instead",
        )],
    );
    for (ty, at) in [
        ("&Self", "Self"),
        ("&Self::Item", "Self::Item"),
        ("&<Self as Trait>::Item", "Self"),
    ] {
        assert_method(
            &format!("async fn f(&self) -> {ty};"),
            &[(
                at,
                "the client does not know `Self`; return a concrete type instead",
            )],
        );
    }
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
            "a type that borrows cannot be decoded here; write `'static`, or return a type without lifetimes",
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

#[test]
fn never_returns() {
    assert_method(
        "async fn f(&self) -> !;",
        &[(
            "!",
            "a method that never returns sends no reply; remove the return type, or return a value",
        )],
    );
}

#[test]
fn a_stream_of_the_caller_in_the_return_type() {
    let advice = "a method sends a stream with `impl Stream<Item = T>`; only callers send an `Incoming<T>`";
    for method in [
        "async fn f(&self) -> Incoming<u8>;",
        "async fn f(&self) -> Result<Option<Incoming<u8>>, Error>;",
        "fn f(&self) -> impl Stream<Item = Incoming<u8>>;",
    ] {
        assert_method(method, &[("Incoming<u8>", advice)]);
    }
}
