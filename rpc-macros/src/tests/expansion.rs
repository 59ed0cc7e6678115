//! Snapshots of the expansions of whole services.

use insta::assert_snapshot;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
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

/// Rustdoc resolves no link with `r#`.
#[test]
fn links_to_raw_names() {
    let item = quote! {
        trait r#match {
            async fn r#type(&self) -> String;
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    for link in [
        "Calls a [`match`]",
        "an implementation of [`match`]",
        "Calls [`match::type`]",
    ] {
        assert!(formatted.contains(link), "{link}: {formatted}");
    }
}

#[test]
fn an_idempotent_oneway_method() {
    let item = quote! {
        trait Mail {
            #[rpc(oneway, idempotent)]
            async fn send(&self, to: &str);
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    assert!(
        formatted.contains(".oneway()") && formatted.contains(".idempotent()"),
        "{formatted}"
    );
}

#[test]
fn a_method_that_is_cancelled() {
    let item = quote! {
        trait Reports {
            #[rpc(cancel)]
            async fn build(&self, year: u16) -> String;
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    assert!(formatted.contains(".cancellable()"), "{formatted}");
}

#[test]
fn a_job_with_retries() {
    let item = quote! {
        trait Mail {
            #[rpc(oneway, idempotent, retry = "5 times, 1s to 5m")]
            async fn send(&self, to: &str) -> Result<(), SendError>;
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    for part in [
        "fn send(&self, to: &str) -> ::rpc_runtime::Call<()>",
        "RetryPolicy::new( 5, ::core::time::Duration::from_millis(1000), ::core::time::Duration::from_millis(300000), )",
        "answer_job(",
    ] {
        let flat = formatted.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(part), "{part}: {formatted}");
    }
}

#[test]
fn broadcasts() {
    let item = quote! {
        trait Cache {
            #[rpc(broadcast)]
            async fn count(&self, prefix: &str) -> u64;
            #[rpc(broadcast, timeout = "2s")]
            async fn reload(&self) -> Result<u64, ReloadError>;
            #[rpc(broadcast, oneway)]
            async fn clear(&self);
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    let (_, client) = formatted.split_once("/// Calls [`Cache::count`].").unwrap();
    let (client, _) = client.split_once("use ::rpc_runtime").unwrap();
    assert_snapshot!(client);
    let flat: String = formatted.split_whitespace().collect();
    for descriptor in [
        r#"("count",&["prefix"],).broadcast()"#,
        r#"("reload",&[],).broadcast().timeout("#,
        r#"("clear",&[]).oneway().broadcast()"#,
    ] {
        let descriptor = descriptor.replace(",)", ")");
        assert!(
            flat.replace(",)", ")").contains(&descriptor),
            "{descriptor}: {formatted}"
        );
    }
}

#[test]
fn streams() {
    let item = quote! {
        trait Market {
            fn prices(&self, symbol: &str) -> impl Stream<Item = u64>;
            #[rpc(idempotent, timeout = "2s")]
            fn trades(&self) -> impl futures::Stream<Item = Result<Trade, MarketError>> + Unpin {
                stream::empty()
            }
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    let flat: String = formatted.split_whitespace().collect();
    let flat = flat.replace(",)", ")").replace(",>", ">");
    for part in [
        "fnprices(&self,symbol:&str)->implStream<Item=u64>+::core::marker::Send;",
        "fntrades(&self)->implfutures::Stream<Item=Result<Trade,MarketError>>+Unpin+::core::marker::Send{{stream::empty()}}",
        "fnprices(&self,symbol:&str)->::rpc_runtime::StreamingCall<u64>{",
        "fntrades(&self)->::rpc_runtime::FallibleStreamingCall<Result<Trade,MarketError>>{",
        "Client::stream::<u64>(",
        "Client::stream_fallible::<Result<Trade,MarketError>>(",
        "__invocation.send_items(<__Implementation",
        "__invocation.send_results(<__Implementation",
        r#"("prices",&["symbol"]).streaming()"#,
        r#"("trades",&[]).streaming().idempotent().timeout("#,
    ] {
        assert!(flat.contains(part), "{part}: {formatted}");
    }
}

#[test]
fn streams_that_are_resumed() {
    let item = quote! {
        trait Market {
            #[rpc(idempotent)]
            fn trades(&self, #[rpc(resume)] #[serde(rename = "since")] after: Option<Trade>) -> impl Stream<Item = Trade>;
            #[rpc(idempotent)]
            fn prices(&self, #[rpc(resume)] after: Option<u64>) -> impl Stream<Item = Result<u64, MarketError>>;
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    let flat: String = formatted.split_whitespace().collect();
    let flat = flat.replace(",)", ")").replace(",>", ">");
    for part in [
        "fntrades(&self,after:Option<Trade>)->implStream<Item=Trade>+::core::marker::Send;",
        "let_:&::core::option::Option<Trade>=&after;",
        "let_:&::core::option::Option<<Result<u64,MarketError>as::rpc_runtime::__private::ResultType>::Ok>=&after;",
        r#"("trades",&["since"]).streaming().idempotent().resumed_by("since")"#,
        r#"("prices",&["after"]).streaming().idempotent().resumed_by("after")"#,
    ] {
        assert!(flat.contains(part), "{part}: {formatted}");
    }
}

#[test]
fn streams_of_the_caller() {
    let item = quote! {
        trait Store {
            async fn upload(&self, name: &str, parts: Incoming<Bytes>) -> Result<u64, StoreError>;
            fn chat(&self, lines: rpc::Incoming<Line>, room: u8) -> impl Stream<Item = Line>;
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    let flat: String = formatted.split_whitespace().collect();
    let flat = flat.replace(",)", ")").replace(",>", ">");
    for part in [
        "fnupload(&self,name:&str,parts:Incoming<Bytes>)->impl::core::future::Future<",
        "fnchat(&self,lines:rpc::Incoming<Line>,room:u8)->implStream<Item=Line>+::core::marker::Send;",
        "fnupload(&self,name:&str,parts:impl::rpc_runtime::__private::Stream<Item=Bytes>+::core::marker::Send+'static)->::rpc_runtime::FallibleCall<",
        "SendsItems::with_items::<Bytes>(",
        "SendsItems::with_items::<Line>(",
        "let__incoming=__invocation.incoming::<Bytes>()?;",
        "::chat(&self.implementation,__incoming,room)",
        r#"("upload",&["name"]).incoming("Bytes")"#,
        r#"("chat",&["room"]).streaming().incoming("Line")"#,
    ] {
        assert!(flat.contains(part), "{part}: {formatted}");
    }
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
fn a_service_with_schemas() {
    let item = quote! {
        trait Store<K: Key> {
            async fn put(&self, key: &K, parts: &[Part], body: Vec<u8>, data: &[u8], note: Cow<'_, str>, #[serde(with = "hex")] by: By) -> io::Result<()>;
            #[cfg(unix)]
            async fn count(&self, #[rpc(context)] cx: &Context) -> u64;
            #[rpc(oneway)]
            async fn clear(&self);
        }
    };
    let formatted = formatted(expand_service(quote!(schema, crate = other::path), item));
    let (_, function) = formatted.split_once("fn __schemas_of_service").unwrap();
    let (function, rest) = function.split_once("    impl<").unwrap();
    assert_snapshot!(function);
    let rest: String = rest.split_whitespace().collect();
    let descriptor = "const{&__Descriptors::service.schemas(__schemas_of_service::<K>)}";
    assert_eq!(rest.matches(descriptor).count(), 2, "{rest}");
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
fn attributes_under_conditions() {
    let item = quote! {
        #[cfg_attr(docsrs, doc = "Counts.", deprecated)]
        trait Counter {
            #[cfg_attr(
                any(unix, windows),
                cfg(feature = "count"),
                must_use,
                expect(non_snake_case),
                cfg_attr(test, deprecated = "tested", other::attribute)
            )]
            async fn theCount(&self) -> u64;
        }
    };
    assert_snapshot!(formatted(expand_service(quote!(), item)));
}

#[test]
fn docs_out_of_macros() {
    let item = quote! {
        #[doc(hidden)]
        #[doc = concat!("Counts ", "things.")]
        trait Counter {
            /// Counts.
            #[doc = include_str!("count.md")]
            async fn count(&self) -> u64;
        }
    };
    assert_snapshot!(formatted(expand_service(quote!(), item)));
}

/// Only `hidden` is repeated: the alias is for the trait.
#[test]
fn a_hidden_trait_with_other_settings_of_rustdoc() {
    let item = quote! {
        #[cfg_attr(unix, doc(alias = "number", hidden))]
        trait Counter {
            async fn count(&self) -> u64;
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    let hidden = "#[cfg_attr(unix, doc(hidden))]";
    assert_eq!(formatted.matches(hidden).count(), 2, "{formatted}");
    assert_eq!(formatted.matches("alias = ").count(), 1, "{formatted}");
}

#[test]
fn deprecation_is_allowed_only_if_the_user_does() {
    let is_allowed = |attributes: &str| {
        let attributes: TokenStream = attributes.parse().unwrap();
        let item = quote! {
            trait Counter {
                #attributes
                async fn count(&self) -> u64;
            }
        };
        let emitted: String = formatted(expand_service(quote!(), item))
            .split_whitespace()
            .collect();
        emitted.contains("allow(dead_code,deprecated,non_camel_case_types,")
    };
    for attributes in [
        "#[deprecated]",
        "#[allow(deprecated)]",
        "#[expect(dead_code, deprecated, reason = \"old\")]",
        "#[cfg_attr(test, allow(deprecated))]",
    ] {
        assert!(is_allowed(attributes), "{attributes}");
    }
    for attributes in [
        "",
        "#[allow(deprecated_in_future)]",
        "#[allow(dead_code, reason = \"deprecated\")]",
        "#[cfg_attr(deprecated, allow(dead_code))]",
    ] {
        assert!(!is_allowed(attributes), "{attributes}");
    }
}

/// `macro_rules!` puts invisible delimiters around an `$expression`.
#[test]
fn serde_functions_out_of_macros_are_forwarded_to() {
    let function = Group::new(Delimiter::None, quote!("write"));
    for settings in [
        quote!(serialize_with = #function),
        quote!(default, serialize_with = #function),
        quote!(serialize_with = #function, default),
    ] {
        let item = quote! {
            trait Store {
                async fn put(&self, #[serde(#settings)] key: &Key);
            }
        };
        let emitted = expand_service(quote!(), item).to_string();
        assert!(emitted.contains("fn write_key"), "{settings}: {emitted}");
    }
}

#[test]
fn the_client_of_a_refused_trait_has_none_of_its_lifetimes() {
    let item = quote! {
        trait Store<'a> {
            async fn put<'x: 'a, T: 'a>(&self, key: &'x T) where 'x: 'a;
        }
    };
    let formatted = formatted(expand_service(quote!(), item));
    let (_, client) = formatted.split_once("impl StoreClient {").unwrap();
    let (_, stub) = client.split_once("fn put<'x").unwrap();
    let (stub, _) = stub.split_once("unimplemented!()").unwrap();
    assert!(!stub.contains("'a"), "{stub}");
}

#[test]
fn alternatives_exclude_each_other() {
    let item = quote! {
        trait Alternatives {
            #[cfg(unix)]
            #[rpc(default)]
            async fn read(&self) -> u8;
            #[cfg(windows)]
            #[rpc(default, name = "read")]
            async fn read_on_windows(&self) -> u8;
            #[cfg_attr(test, cfg(target_os = "wasi"))]
            #[rpc(default)]
            async fn other(&self);
            async fn always(&self);
        }
    };
    let errors: Vec<_> = compile_errors(expand_service(quote!(), item));
    let read = "`read` and `read_on_windows` are both compiled here, and both have the wire name `read`; make their conditions exclude each other, or give one of them a different name with `#[rpc(name = \"..\")]`";
    let default = |one: &str| {
        format!(
            "`{one}` and `other` are both compiled here, and both are the default method; make their conditions exclude each other, or remove `default` from one"
        )
    };
    assert_eq!(
        errors,
        [read.to_owned(), default("read"), default("read_on_windows")]
    );
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
fn bodies_are_kept_as_they_are() {
    let body = "{ let x = @ 'label ? ; unknown syntax (.. => #) }";
    for options in [quote!(), quote!(unknown)] {
        let item: TokenStream = format!("trait S {{ async fn f(&self) {body} }}").parse().unwrap();
        let emitted = expand_service(options, item).to_string();
        let body: TokenStream = body.parse().unwrap();
        assert!(emitted.contains(&format!("async move {body}")), "{emitted}");
    }
}

#[test]
fn inner_attributes_of_a_body_become_attributes_of_the_method() {
    let item = quote! {
        trait S {
            async fn f(&self) {
                #![allow(dead_code)]
                work();
            }
        }
    };
    let emitted = expand_service(quote!(), item).to_string();
    let expected = [
        quote!(#[allow(dead_code)] fn f),
        quote!(async move {
            work();
        }),
    ];
    for expected in expected {
        assert!(emitted.contains(&expected.to_string()), "{emitted}");
    }
}

#[test]
fn timeouts_have_the_grammar_of_humantime() {
    for (timeout, milliseconds) in [
        ("500ms", 500),
        ("1.5s", 1500),
        ("1m 30s", 90_000),
        ("2hours", 7_200_000),
    ] {
        let item = quote! {
            trait S {
                #[rpc(timeout = #timeout)]
                async fn f(&self);
            }
        };
        let emitted = expand_service(quote!(), item).to_string();
        assert!(
            emitted.contains(&format!("from_millis ({milliseconds})")),
            "{emitted}"
        );
    }
}

/// If an editor is asked for the definition of a client's method or of a generated type, it goes to
/// the name in the trait.
#[test]
fn generated_names_have_the_spans_of_the_names_in_the_trait() {
    let source = "trait Clock { #[rpc(idempotent)] async fn now(&self, zone: &str) -> Result<u8, E>; async fn tick(&self); }";
    for options in ["", "unknown"] {
        let emitted = expand_service(options.parse().unwrap(), source.parse().unwrap());
        for (generated, written) in [
            ("now", "now"),
            ("tick", "tick"),
            ("Clock", "Clock"),
            ("ClockClient", "Clock"),
            ("ClockServer", "Clock"),
        ] {
            let spans = spans_of(emitted.clone(), generated);
            assert!(!spans.is_empty(), "`{generated}` is not generated");
            let begin = source.find(written).unwrap();
            for span in spans {
                assert_eq!(
                    span.start().column,
                    begin,
                    "`{generated}` is at {:?}",
                    span.source_text()
                );
            }
        }
    }
}

fn spans_of(tokens: TokenStream, name: &str) -> Vec<proc_macro2::Span> {
    let spans = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => spans_of(group.stream(), name),
        TokenTree::Ident(ident) if ident == name => vec![ident.span()],
        _ => Vec::new(),
    });
    spans.collect()
}

#[test]
fn a_custom_crate_path_is_the_only_one() {
    let expansion = expand_service(quote!(crate = other::path, schema), user_directory());
    assert!(!mentions(expansion, "rpc_runtime"));
    let expansion = expand_service(quote!(), user_directory());
    assert!(mentions(expansion, "rpc_runtime"));
}

/// Cargo unifies the features of a dependency, so an expansion must not depend on them: one crate's
/// features would change another's code.
mod output_depends_on_the_input_alone {
    use std::fs;
    use std::path::Path;

    use quote::quote;

    use super::user_directory;
    use crate::expand_service;

    #[test]
    fn the_same_input_twice() {
        let expand = || expand_service(quote!(queue = "rpc_queue"), user_directory()).to_string();
        assert_eq!(expand(), expand());
    }

    #[test]
    fn the_crate_has_no_features() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(!manifest.contains("[features]") && !manifest.contains("optional"));
    }

    #[test]
    fn sources_read_no_features_and_no_environment() {
        let mut files = 0;
        each_source(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            &mut |path, text| {
                files += 1;
                // `env!` and `cfg` of a feature, in the spellings that rustfmt leaves.
                for word in ["feature =", "env::var", "option_env!"] {
                    assert!(!text.contains(word), "{} has `{word}`", path.display());
                }
            },
        );
        assert!(files > 10, "found {files} files alone");
    }

    /// Visits all sources but the tests.
    fn each_source(directory: &Path, visit: &mut impl FnMut(&Path, &str)) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                visit(&path, &fs::read_to_string(&path).unwrap());
            } else if !path.ends_with("tests") {
                each_source(&path, visit);
            }
        }
    }
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

/// The tokens formatted similarly to rustfmt.
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

/// The messages of all `compile_error!` in the code.
fn compile_errors(tokens: TokenStream) -> Vec<String> {
    let mut messages = Vec::new();
    let mut is_error = false;
    for token in tokens {
        match token {
            TokenTree::Group(group) if is_error => {
                let message: syn::LitStr = syn::parse2(group.stream()).expect("it has a message");
                messages.push(message.value());
            }
            TokenTree::Group(group) => messages.extend(compile_errors(group.stream())),
            TokenTree::Ident(ident) => is_error = ident == "compile_error",
            TokenTree::Punct(punct) if punct.as_char() == '!' => {}
            _ => is_error = false,
        }
    }
    messages
}
