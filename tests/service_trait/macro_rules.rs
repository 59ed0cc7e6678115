//! Traits that `macro_rules!` produces: every kind of fragment may stand where the macro reads
//! something.

use std::time::Duration;

use rpc_runtime::{ClientBuilder, Codec, ServiceClient, service};

use crate::wire::Tap;

#[tokio::test]
async fn a_whole_trait() {
    macro_rules! define {
        ($item:item) => {
            #[service]
            $item
        };
    }

    define! {
        trait Echo {
            async fn echo(&self, text: &str) -> String;
        }
    }

    struct Mirror;

    impl Echo for Mirror {
        async fn echo(&self, text: &str) -> String {
            text.to_owned()
        }
    }

    assert_eq!(EchoClient::in_process(Mirror).echo("a").await.unwrap(), "a");
}

#[tokio::test]
async fn two_traits_of_one_macro() {
    macro_rules! adder {
        ($name:ident, $client:ident, $number:ty) => {
            #[service]
            trait $name {
                async fn add(&self, number: $number, by: &$number) -> $number;
            }

            impl $name for Calculator {
                async fn add(&self, number: $number, by: &$number) -> $number {
                    number + by
                }
            }
        };
    }

    struct Calculator;
    adder!(Small, SmallClient, u8);
    adder!(Large, LargeClient, u64);

    assert_eq!(SmallClient::in_process(Calculator).add(1, &2).await.unwrap(), 3);
    let large = LargeClient::in_process(Calculator);
    assert_eq!(large.add(1 << 40, &2).await.unwrap(), (1 << 40) + 2);
}

#[tokio::test]
async fn names_from_variables() {
    macro_rules! define {
        ($name:ident, $method:ident, $argument:ident, $cx:ident) => {
            #[service]
            trait $name {
                async fn $method(
                    &self,
                    #[rpc(context)] $cx: &rpc_runtime::Context,
                    $argument: &str,
                ) -> String;
            }

            struct Implementation;

            impl $name for Implementation {
                async fn $method(&self, $cx: &rpc_runtime::Context, $argument: &str) -> String {
                    format!("{} {}", $cx.method(), $argument)
                }
            }
        };
    }

    define!(Search, find, text, context);

    let (tap, sent) = Tap::new(SearchServer::new(Implementation));
    let search: SearchClient = ClientBuilder::in_process(tap).build();
    assert_eq!(search.find("a").await.unwrap(), "find a");
    assert_eq!(sent.take(), r#"{"text":"a"}"#);
}

/// A type out of a variable is wrapped in an invisible group: bytes stay bytes, text stays text, a
/// `Result` stays one.
#[tokio::test]
async fn types_from_variables() {
    macro_rules! define {
        ($text:ty, $bytes:ty, $owned:ty, $slice:ty, $result:ty) => {
            #[service]
            trait Forms {
                async fn all(&self, text: $text, bytes: $bytes, owned: $owned, slice: $slice) -> $result;
            }

            struct Implementation;

            impl Forms for Implementation {
                async fn all(&self, text: $text, bytes: $bytes, owned: $owned, slice: $slice) -> $result {
                    match slice {
                        [] => Err(text.to_owned()),
                        _ => Ok([bytes, &owned, slice].concat().into()),
                    }
                }
            }
        };
    }

    define!(&str, &[u8], Vec<u8>, &[u8], Result<Vec<u8>, String>);

    let (tap, sent) = Tap::new(FormsServer::new(Implementation));
    let forms: FormsClient = ClientBuilder::in_process(tap).build();
    assert_eq!(forms.all("a", &[1], vec![2], &[3]).await.unwrap(), [1, 2, 3]);
    assert_eq!(
        sent.take(),
        r#"{"text":"a","bytes":h'01',"owned":h'02',"slice":h'03'}"#
    );
    let error = forms.all("a", &[1], vec![2], &[]).await.unwrap_err();
    assert!(matches!(error, rpc_runtime::CallError::Service(text) if text == "a"));
}

#[tokio::test]
async fn element_types_from_variables() {
    macro_rules! define {
        ($element:ty) => {
            #[service]
            trait Forms {
                async fn all(&self, slice: &[$element], owned: Vec<$element>) -> Vec<$element>;
            }

            struct Implementation;

            impl Forms for Implementation {
                async fn all(&self, slice: &[$element], owned: Vec<$element>) -> Vec<$element> {
                    [slice, &owned].concat()
                }
            }
        };
    }

    define!(u8);

    let (tap, sent) = Tap::new(FormsServer::new(Implementation));
    let forms: FormsClient = ClientBuilder::in_process(tap).build();
    assert_eq!(forms.all(&[1], vec![2]).await.unwrap(), [1, 2]);
    assert_eq!(sent.take(), r#"{"slice":h'01',"owned":h'02'}"#);
}

/// What the clocks below are to say of themselves.
#[track_caller]
fn assert_is_the_clock<C: ServiceClient>() {
    let method = C::SERVICE.methods[0];
    assert_eq!((C::SERVICE.queue, method.name), ("clock.v2", "clock.now"));
    assert_eq!(method.timeout, Some(Duration::from_secs(2)));
}

#[test]
fn values_of_options_from_literals() {
    macro_rules! define {
        ($queue:literal, $limit:literal, $name:literal) => {
            #[service(queue = $queue)]
            trait Clock {
                #[rpc(timeout = $limit, name = $name)]
                async fn now(&self) -> u8;
            }
        };
    }

    define!("clock.v2", "2s", "clock.now");
    assert_is_the_clock::<ClockClient>();
}

#[test]
fn values_of_options_from_expressions() {
    macro_rules! define {
        ($queue:expr, $limit:expr, $name:expr) => {
            #[service(queue = $queue)]
            trait Clock {
                #[rpc(timeout = $limit, name = $name)]
                async fn now(&self) -> u8;
            }
        };
    }

    define!("clock.v2", "2s", "clock.now");
    assert_is_the_clock::<ClockClient>();
}

#[test]
fn options_from_metas() {
    macro_rules! define {
        ([$($service:meta),*] [$($rpc:meta),*]) => {
            #[service($($service),*)]
            trait Clock {
                #[rpc($($rpc),*)]
                async fn now(&self) -> u8;
            }
        };
    }

    define!([queue = "clock.v2", crate = ::rpc_runtime] [timeout = "2s", name = "clock.now", default, idempotent]);
    assert_is_the_clock::<ClockClient>();
    let method = ClockClient::SERVICE.methods[0];
    assert!(method.is_default && method.is_idempotent);
}

#[test]
fn options_from_tokens() {
    macro_rules! define {
        ([$($service:tt)*] [$($rpc:tt)*]) => {
            #[service($($service)*)]
            trait Clock {
                #[rpc($($rpc)*)]
                async fn now(&self) -> u8;
            }
        };
    }

    define!([queue = "clock.v2"] [timeout = "2s", name = "clock.now"]);
    assert_is_the_clock::<ClockClient>();
}

/// The whole of `#[service(..)]`, `#[rpc(..)]` and `#[serde(..)]` is handed in.
#[tokio::test]
async fn attributes_from_metas() {
    macro_rules! define {
        ($(#[$outer:meta])* $name:ident { $(#[$inner:meta])* $method:ident($(#[$parameter:meta])* $argument:ident) }) => {
            $(#[$outer])*
            trait $name {
                $(#[$inner])*
                async fn $method(&self, $(#[$parameter])* $argument: u8) -> u8;
            }

            struct Implementation;

            impl $name for Implementation {
                async fn $method(&self, $argument: u8) -> u8 {
                    $argument
                }
            }
        };
    }

    define! {
        /// Tells the time.
        #[service(queue = "clock.v2")]
        #[allow(dead_code)]
        Clock {
            /// The time now.
            #[rpc(timeout = "2s")]
            #[rpc(name = "clock.now")]
            now(#[serde(default)] #[serde(rename = "zone")] offset)
        }
    }

    assert_is_the_clock::<ClockClient>();
    assert_eq!(ClockClient::SERVICE.docs, "Tells the time.");
    assert_eq!(ClockClient::SERVICE.methods[0].docs, "The time now.");
    let (tap, sent) = Tap::new(ClockServer::new(Implementation));
    let clock: ClockClient = ClientBuilder::in_process(tap).codec(Codec::Json).build();
    assert_eq!(clock.now(3).await.unwrap(), 3);
    assert_eq!(sent.take(), r#"{"zone":3}"#);
}

#[tokio::test]
async fn settings_of_serde_from_variables() {
    macro_rules! define {
        ($rename:literal, $default:literal, $setting:meta) => {
            #[service]
            trait Search {
                async fn find(
                    &self,
                    #[serde(rename = $rename)] limit: u8,
                    #[serde(default = $default)] most: u8,
                    #[serde($setting)] page: u8,
                ) -> u8;
            }

            struct Implementation;

            impl Search for Implementation {
                async fn find(&self, limit: u8, most: u8, page: u8) -> u8 {
                    limit.min(most) + page
                }
            }
        };
    }

    define!("at_most", "ten", rename = "from");
    fn ten() -> u8 {
        10
    }

    let (tap, sent) = Tap::new(SearchServer::new(Implementation));
    let search: SearchClient = ClientBuilder::in_process(tap).build();
    assert_eq!(search.find(1, ten(), 2).await.unwrap(), 3);
    assert_eq!(sent.take(), r#"{"at_most":1,"most":10,"from":2}"#);
    assert_eq!(
        SearchClient::SERVICE.methods[0].arguments,
        ["at_most", "most", "from"]
    );
}

#[tokio::test]
async fn the_path_of_the_crate_from_a_variable() {
    macro_rules! define {
        ($runtime:path) => {
            #[service(crate = $runtime)]
            trait Echo {
                async fn echo(&self, #[serde(default)] text: &str) -> String;
            }
        };
    }

    mod company {
        pub(super) use rpc_runtime as messaging;
    }

    define!(company::messaging);

    struct Mirror;

    impl Echo for Mirror {
        async fn echo(&self, text: &str) -> String {
            text.to_owned()
        }
    }

    assert_eq!(EchoClient::in_process(Mirror).echo("a").await.unwrap(), "a");
}

mod visible {
    macro_rules! define {
        ($visibility:vis, $name:ident) => {
            #[rpc_runtime::service]
            $visibility trait $name {
                async fn now(&self) -> u8;
            }

            impl $name for super::Seven {
                async fn now(&self) -> u8 {
                    7
                }
            }
        };
    }

    define!(pub(super), Above);
    define!(, Here);

    #[tokio::test]
    async fn no_visibility_from_a_variable() {
        assert_eq!(HereClient::in_process(super::Seven).now().await.unwrap(), 7);
    }
}

struct Seven;

#[tokio::test]
async fn a_visibility_from_a_variable() {
    assert_eq!(visible::AboveClient::in_process(Seven).now().await.unwrap(), 7);
}

#[tokio::test]
async fn a_default_body_from_a_variable() {
    macro_rules! define {
        ($body:block) => {
            #[service]
            trait Clock {
                async fn now(&self) -> u8 $body
            }
        };
    }

    define!({ 7 });

    impl Clock for Seven {}

    assert_eq!(ClockClient::in_process(Seven).now().await.unwrap(), 7);
}

/// `self` of a body and of its receiver come from one macro, a name in it from another.
#[tokio::test]
async fn a_default_body_of_mixed_origin() {
    macro_rules! define {
        ($argument:ident, $value:expr) => {
            #[service]
            trait Counter {
                async fn add(&self, $argument: u8, by: u8) -> u8 {
                    let sum = $value + by;
                    self.id(sum).await
                }
                async fn id(&self, value: u8) -> u8;
            }
        };
    }

    define!(number, number * 2);

    impl Counter for Seven {
        async fn id(&self, value: u8) -> u8 {
            value
        }
    }

    assert_eq!(CounterClient::in_process(Seven).add(2, 3).await.unwrap(), 7);
}

#[tokio::test]
async fn parameters_of_the_trait_from_variables() {
    macro_rules! define {
        ($parameter:ident, $bound:path, $count:ident) => {
            #[service]
            trait Store<$parameter: serde::Serialize + $bound + Send + Sync + 'static, const $count: usize> {
                async fn get(&self, key: $parameter) -> ($parameter, usize);
            }
        };
    }

    define!(K, serde::de::DeserializeOwned, N);

    impl Store<u8, 2> for Seven {
        async fn get(&self, key: u8) -> (u8, usize) {
            (key, 2)
        }
    }

    let store = StoreClient::<u8, 2>::in_process(Seven);
    assert_eq!(store.get(1).await.unwrap(), (1, 2));
}
