//! Generated code assumes nothing about where it lands.
//!
//! The services of `rpc-strict-fixture` stand in modules that deny something each; here they are
//! called too.

use std::borrow::Cow;

/// Calls the services of a module of the fixture.
macro_rules! works_under {
    ($($module:ident,)*) => {$(
        #[tokio::test]
        async fn $module() {
            use rpc_strict_fixture::$module::{Bag, BagClient, Notes, NotesClient, Thing};

            struct Desk;

            #[allow(deprecated)]
            impl Notes for Desk {
                async fn read(&self, name: &str) -> Result<Vec<u8>, String> {
                    Err(format!("no {name}"))
                }

                async fn join(&self, text: Cow<'_, str>, bytes: &[u8], things: &[Thing], owned: Vec<u8>) -> String {
                    format!("{text} {bytes:?} {things:?} {owned:?}")
                }

                async fn remove(&self, _: String) {}

                async fn old(&self) {}
            }

            impl Bag<u8> for Desk {
                async fn put(&self, cx: &rpc_runtime::Context, one: &u8) -> u8 {
                    assert_eq!(cx.method(), "put");
                    *one
                }
            }

            let notes = NotesClient::in_process(Desk);
            let error = notes.read("a").await.unwrap_err();
            assert!(matches!(error, rpc_runtime::CallError::Service(text) if text == "no a"));
            assert_eq!(notes.count("ab").await.unwrap(), 7);
            let joined = notes.join("a".into(), &[1], &[Thing(2)], vec![3]);
            assert_eq!(joined.await.unwrap(), "a [1] [Thing(2)] [3]");
            notes.remove("a".to_owned()).await.unwrap();
            assert_eq!(BagClient::in_process(Desk).put(&3).await.unwrap(), 3);
        }
    )*};
}

works_under! {
    no_implicit_prelude,
    missing_docs,
    unused,
    unsafe_code,
    clippy_all,
    clippy_pedantic,
    strict,
}

/// The fixture has `rpc-runtime` as `messages`, and nothing else that is named like the crate.
#[test]
fn a_renamed_runtime() {
    let manifest = include_str!("../fixtures/strict/Cargo.toml");
    assert!(manifest.contains(r#"messages = { package = "rpc-runtime""#));
    assert!(!manifest.contains("rpc-runtime.workspace"));
    let _ = rpc_strict_fixture::strict::NotesClient::new;
}

/// The crate of the service knows the facade alone, and not that there is a runtime.
#[tokio::test]
async fn a_runtime_behind_a_facade() {
    use rpc_strict_fixture::facade::{Ping, PingClient};

    struct Echo;

    impl Ping for Echo {
        async fn ping(&self, text: &str, times: Vec<u8>) -> usize {
            text.len() * times.len()
        }
    }

    assert_eq!(
        PingClient::in_process(Echo)
            .ping("abc", vec![0, 0])
            .await
            .unwrap(),
        6
    );
}

/// A path that is none of an external crate's.
#[tokio::test]
async fn a_runtime_within_a_module() {
    mod company {
        pub(super) mod deep {
            pub(in super::super) use rpc_runtime as messaging;
        }
    }

    #[company::deep::messaging::service(crate = company::deep::messaging)]
    trait Clock {
        async fn now(&self, #[serde(default)] offset: u8) -> Result<u8, String>;
    }

    struct Noon;

    impl Clock for Noon {
        async fn now(&self, offset: u8) -> Result<u8, String> {
            Ok(12 + offset)
        }
    }

    assert_eq!(ClockClient::in_process(Noon).now(1).await.unwrap(), 13);
}

/// A service whose scope has a type, and a value, of the name of something that generated code has
/// to name itself.
macro_rules! beside_a_type_named {
    ($($test:ident: $name:ident,)*) => {
        $(#[tokio::test]
        async fn $test() {
            $test::check().await;
        }

        #[allow(non_camel_case_types)]
        mod $test {
            use ::rpc_runtime::{Context, service};

            #[derive(::core::fmt::Debug, ::core::cmp::PartialEq, ::serde::Serialize, ::serde::Deserialize)]
            struct $name;

            #[service]
            trait Shadow {
                async fn plain(&self, #[rpc(context)] cx: &Context, text: &str, bytes: &[u8], value: $name) -> $name;
                async fn derived(&self, #[serde(default = "value")] value: &$name, slice: &[$name]) -> usize;
                async fn fallible(&self, value: $name) -> ::core::result::Result<u8, $name>;
                async fn bodied(&self) -> u8 {
                    7
                }
            }

            fn value() -> $name {
                $name
            }

            struct Shade;

            impl Shadow for Shade {
                async fn plain(&self, _: &Context, _: &str, _: &[u8], value: $name) -> $name {
                    value
                }

                async fn derived(&self, _: &$name, slice: &[$name]) -> usize {
                    slice.len()
                }

                async fn fallible(&self, value: $name) -> ::core::result::Result<u8, $name> {
                    ::core::result::Result::Err(value)
                }
            }

            pub(super) async fn check() {
                let shadow = ShadowClient::in_process(Shade);
                ::core::assert_eq!(shadow.plain("a", &[1], $name).await.unwrap(), $name);
                ::core::assert_eq!(shadow.derived(&$name, &[$name, $name]).await.unwrap(), 2);
                let error = shadow.fallible($name).await.unwrap_err();
                ::core::assert!(::core::matches!(error, ::rpc_runtime::CallError::Service($name)));
                ::core::assert_eq!(shadow.bodied().await.unwrap(), 7);
            }
        })*
    };
}

beside_a_type_named! {
    a_type_named_option: Option,
    a_type_named_vec: Vec,
    a_type_named_string: String,
    a_type_named_send: Send,
    a_type_named_sync: Sync,
    a_type_named_box: Box,
    a_type_named_arc: Arc,
    a_type_named_ok: Ok,
    a_type_named_err: Err,
    a_type_named_some: Some,
    a_type_named_none: None,
    a_type_named_future: Future,
    a_type_named_clone: Clone,
    a_type_named_debug: Debug,
    a_type_named_default: Default,
    a_type_named_sized: Sized,
    a_type_named_from: From,
    a_type_named_phantom_data: PhantomData,
    a_type_named_core: core,
    a_type_named_std: std,
    a_type_named_alloc: alloc,
    a_type_named_serde: serde,
    a_type_named_rpc_runtime: rpc_runtime,
    a_type_named_str: str_,
    a_type_named_t: T,
    a_type_named_call: Call,
    a_type_named_broker: Broker,
    a_type_named_answer: Answer,
    a_type_named_fault: Fault,
    a_type_named_invocation: Invocation,
    a_type_named_service: Service,
    a_type_named_derived: Derived,
    a_type_named_client: Client,
    a_type_named_server: Server,
}

/// It cannot be returned by that name: see the UI tests.
mod result {
    use rpc_runtime::service;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Result;

    #[service]
    trait Shadow {
        async fn plain(&self, value: Result, #[serde(default)] text: &str) -> Vec<Result>;
        async fn fallible(&self, value: &Result) -> core::result::Result<u8, Result>;
    }

    struct Shade;

    impl Shadow for Shade {
        async fn plain(&self, value: Result, _: &str) -> Vec<Result> {
            vec![value]
        }

        async fn fallible(&self, _: &Result) -> core::result::Result<u8, Result> {
            Err(Result)
        }
    }

    #[tokio::test]
    async fn a_type_named_result() {
        let shadow = ShadowClient::in_process(Shade);
        assert_eq!(shadow.plain(Result, "a").await.unwrap(), [Result]);
        let error = shadow.fallible(&Result).await.unwrap_err();
        assert!(matches!(error, rpc_runtime::CallError::Service(Result)));
    }
}

/// Modules of these names are what a path without a leading `::` would lead to.
mod modules {
    mod core {}
    mod std {}
    mod alloc {}
    mod serde {}
    mod rpc_runtime {}

    #[::rpc_runtime::service]
    trait Echo {
        async fn echo(&self, #[serde(default)] text: &str) -> Result<String, String>;
    }

    struct Mirror;

    impl Echo for Mirror {
        async fn echo(&self, text: &str) -> Result<String, String> {
            Ok(text.to_owned())
        }
    }

    #[tokio::test]
    async fn beside_modules_named_like_crates() {
        assert_eq!(EchoClient::in_process(Mirror).echo("a").await.unwrap(), "a");
    }
}

/// Macros of the prelude may mean something else too.
#[allow(unused_macros)]
mod macros {
    macro_rules! assert {
        ($($anything:tt)*) => {
            compile_error!("not this one")
        };
    }

    macro_rules! matches {
        ($($anything:tt)*) => {
            compile_error!("not this one")
        };
    }

    #[rpc_runtime::service]
    trait Echo {
        async fn echo(&self, #[serde(default)] text: &str) -> String;
    }

    struct Mirror;

    impl Echo for Mirror {
        async fn echo(&self, text: &str) -> String {
            text.to_owned()
        }
    }

    #[tokio::test]
    async fn beside_macros_named_like_those_of_the_prelude() {
        assert_eq!(EchoClient::in_process(Mirror).echo("a").await.unwrap(), "a");
    }
}

/// What nothing here needs to have allowed may be forbidden.
#[forbid(deprecated)]
mod forbidding {
    use rpc_runtime::service;

    #[service]
    pub(super) trait Modern {
        async fn is_new(&self, what: &str) -> Result<bool, String>;
    }
}
