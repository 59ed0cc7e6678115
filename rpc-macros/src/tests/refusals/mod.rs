//! Errors: the underlined tokens and the messages.

use proc_macro2::TokenStream;

use crate::{expand_service, parse};

mod accepted;
mod items;
mod method_options;
mod methods;
mod parameters;
mod serde;
mod service_options;
mod types;

/// The errors for an item with `#[service(arguments)]`: the underlined tokens and the message of
/// each.
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

/// Asserts that the item has these errors, and that it is emitted once, without `#[rpc]`.
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
    assert!(!emitted.contains("rpc ("), "{emitted}");
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
