//! What is generated: snapshots of whole services, to be read like code written by hand.

use insta::assert_snapshot;
use proc_macro2::{TokenStream, TokenTree};
use quote::quote;

use crate::expand_service;

#[test]
fn a_public_service() {
    assert_snapshot!(formatted(expand_service(
        quote!(queue = "rpc_queue"),
        user_directory()
    )));
}

#[test]
fn a_private_service() {
    let item = quote! {
        trait Store {
            async fn put(&self, key: &Key, parts: &[Part], #[rpc(context)] cx: &Context, body: Vec<u8>) -> Receipt;
            #[rpc(name = "store.type")]
            async fn r#type(&self, invocation: u8, r#match: &[u8]) -> io::Result<String>;
        }
    };
    assert_snapshot!(formatted(expand_service(quote!(), item)));
}

#[test]
fn a_generic_service() {
    let item = quote! {
        pub trait Store<K: Key, V = String, const N: usize = 3>: Debug
        where
            V: Value,
        {
            async fn put(&self, #[serde(rename = "k", with = "hex")] key: &K, #[serde(default)] body: Vec<u8>, note: Cow<'_, str>) -> V;
            async fn count(&self) -> usize {
                N
            }
        }
    };
    assert_snapshot!(formatted(expand_service(quote!(), item)));
}

#[test]
fn attributes_of_the_user() {
    let item = quote! {
        /// Counts.
        ///
        ///     indented
        #[deprecated = "use `Tally`"]
        #[expect(clippy::wrong_self_convention)]
        #[other::attribute]
        pub(crate) trait Counter: Debug + Unpin {
            #[cfg(unix)]
            #[doc(alias = "number")]
            #[deprecated]
            #[must_use = "counting takes time"]
            #[expect(non_snake_case)]
            #[other::attribute]
            #[rpc(idempotent)]
            async fn theCount(&self, of: Thing) -> u64;
        }
    };
    assert_snapshot!(formatted(expand_service(quote!(), item)));
}

#[test]
fn a_custom_crate_path() {
    let item = quote! {
        pub trait Ping {
            async fn ping(&self, text: &str) -> Result<Vec<u8>, Error>;
        }
    };
    assert_snapshot!(formatted(expand_service(quote!(crate = other::path), item)));
}

#[test]
fn a_refused_trait() {
    let item = quote! {
        pub trait Ping {
            #[rpc(idempotnt)]
            async fn ping(&self, #[rpc(context)] cx: &Context, text: &str) -> String;
            #[rpc(oneway)]
            async fn pong(&self);
            fn echo(&self);
            async fn greet(&self) { }
        }
    };
    assert_snapshot!(formatted(expand_service(quote!(), item)));
}

#[test]
fn a_custom_crate_path_is_the_only_one() {
    let expansion = expand_service(quote!(crate = other::path), user_directory());
    assert!(!mentions(expansion, "rpc_runtime"));
    let expansion = expand_service(quote!(), user_directory());
    assert!(mentions(expansion, "rpc_runtime"));
}

fn user_directory() -> TokenStream {
    quote! {
        /// Looks users up.
        pub trait UserDirectory {
            /// The e-mail address of one user.
            #[rpc(default, idempotent)]
            async fn get_email(&self, id: &str) -> Result<String, DirectoryError>;
            /// Renames a user; never repeated behind the caller's back.
            #[rpc(timeout = "2s")]
            async fn rename(&self, #[rpc(context)] cx: &Context, id: &str, name: String) -> Result<(), DirectoryError>;
            async fn count(&self) -> u64;
            #[rpc(oneway)]
            async fn touch(&self, data: &[u8]);
        }
    }
}

/// The tokens as rustfmt would lay them out, near enough.
#[track_caller]
fn formatted(tokens: TokenStream) -> String {
    let file = syn2::parse2(tokens).expect("the expansion is a list of items");
    prettyplease::unparse(&file)
}

fn mentions(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => mentions(group.stream(), name),
        TokenTree::Ident(ident) => ident == name,
        _ => false,
    })
}
