//! No name of the user's meets one of ours.

use rpc_runtime::{Context, service};

/// Types and traits that go by the names that generated code uses.
#[allow(dead_code, non_camel_case_types)]
mod shadowed {
    use ::serde::{Deserialize, Serialize};

    macro_rules! types {
        ($($name:ident)*) => {$(
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            pub(super) struct $name;
        )*};
    }

    types! {
        Result Option Vec String Box Clone Debug Future Send Sync Arc Ok Err Some None Self_ core std alloc serde
        rpc_runtime Client Call Server Service Context Broker Answer Fault Invocation CowStr PhantomData str_ T U
        BoxFuture Derived
    }

    use ::rpc_runtime::service;

    #[service]
    pub(super) trait Shadows {
        async fn types(&self, a: T, b: &Client, c: Vec, d: Option, e: String) -> Box;
        async fn services(&self, a: Service, b: Call, c: Fault, cx: &Context) -> Future;
        async fn derived(&self, #[serde(default = "none")] a: None, b: Ok) -> Send;
    }

    fn none() -> None {
        None
    }

    pub(super) struct Mirror;

    impl Shadows for Mirror {
        async fn types(&self, _: T, _: &Client, _: Vec, _: Option, _: String) -> Box {
            Box
        }

        async fn services(&self, _: Service, _: Call, _: Fault, _: &Context) -> Future {
            Future
        }

        async fn derived(&self, _: None, _: Ok) -> Send {
            Send
        }
    }
}

/// Generic types by the names of those that are taken for text and bytes.
mod named_alike {
    use rpc_runtime::service;
    use serde::{Deserialize, Serialize};
    use std::marker::PhantomData;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Vec<T>(pub(super) T);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Cow<T: ?Sized>(pub(super) u8, pub(super) PhantomData<T>);

    #[service]
    pub(super) trait Alike {
        async fn vec(&self, number: Vec<u8>, text: std::borrow::Cow<'_, str>) -> Vec<u8>;
        async fn cow(&self, text: Cow<str>, bytes: Cow<[u8]>) -> Cow<str>;
        async fn lasting(&self, bytes: lasting::Cow<'static, [u8]>) -> lasting::Cow<'static, [u8]>;
    }

    pub(super) mod lasting {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub(in super::super) struct Cow<'a, T: ?Sized>(
            pub(in super::super) u8,
            pub(in super::super) std::marker::PhantomData<&'a T>,
        );
    }

    pub(super) struct Mirror;

    impl Alike for Mirror {
        async fn vec(&self, number: Vec<u8>, text: std::borrow::Cow<'_, str>) -> Vec<u8> {
            assert_eq!(text, "text");
            number
        }

        async fn cow(&self, text: Cow<str>, bytes: Cow<[u8]>) -> Cow<str> {
            Cow(text.0 + bytes.0, PhantomData)
        }

        async fn lasting(&self, bytes: lasting::Cow<'static, [u8]>) -> lasting::Cow<'static, [u8]> {
            bytes
        }
    }
}

#[tokio::test]
async fn generic_types_may_be_named_like_text_and_bytes() {
    use named_alike::*;
    use std::marker::PhantomData;

    let alike = AlikeClient::in_process(Mirror);
    assert_eq!(alike.vec(Vec(7), "text".into()).await.unwrap(), Vec(7));
    let cow = alike.cow(Cow(1, PhantomData), Cow(2, PhantomData));
    assert_eq!(cow.await.unwrap(), Cow(3, PhantomData));
    let lasting = alike.lasting(lasting::Cow(4, PhantomData)).await;
    assert_eq!(lasting.unwrap(), lasting::Cow(4, PhantomData));
}

/// Methods that every type has may go by the names that generated code calls.
#[allow(dead_code)] // they need only be there
mod blanket {
    pub(super) trait Everything {
        fn text(&self) -> String {
            String::new()
        }

        fn arguments(&self) {}

        fn answer(&self) {}

        fn call(&self) {}
    }

    impl<T> Everything for T {}

    /// Found before those that borrow.
    pub(super) trait ByValue: Sized {
        fn call(self) {}

        fn call_fallible(self) {}

        fn field(self) {}

        fn method(self) {}

        fn build(self) {}
    }

    impl<T> ByValue for T {}
}

#[tokio::test]
async fn traits_of_every_type_may_have_methods_of_any_name() {
    #[allow(unused_imports)] // as it should be
    use blanket::ByValue as _;
    use blanket::Everything as _;

    #[service]
    trait Shop<T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static> {
        async fn buy(&self, what: &str) -> Result<T, String>;
        async fn price(&self, #[serde(alias = "of")] what: &T) -> u8;
    }

    struct Closed;

    impl Shop<u8> for Closed {
        async fn buy(&self, what: &str) -> Result<u8, String> {
            Err(format!("no {what}{}", what.text()))
        }

        async fn price(&self, what: &u8) -> u8 {
            *what
        }
    }

    let shop = ShopClient::<u8>::in_process(Closed);
    assert!(format!("{shop:?}").starts_with("ShopClient"));
    assert_eq!(shop.price(&7).await.unwrap(), 7);
    let error = shop.buy("bread").await.unwrap_err();
    assert!(matches!(error, rpc_runtime::CallError::Service(error) if error == "no bread"));
}

#[tokio::test]
async fn types_may_shadow_those_of_the_prelude_and_ours() {
    use shadowed::*;
    let shadows = ShadowsClient::in_process(Mirror);
    shadows.types(T, &Client, Vec, Option, String).await.unwrap();
    shadows
        .services(Service, Call, Fault, &shadowed::Context)
        .await
        .unwrap();
    shadows.derived(None, Ok).await.unwrap();
}

/// A service of one method with these arguments, called with 1, 2, 3 and so on. They are written
/// out here, as hygiene would tell names that come out of a macro from those of the generated code
/// in any case.
#[tokio::test]
async fn arguments_named_like_bindings_of_generated_code() {
    #[service]
    #[allow(clippy::too_many_arguments)]
    trait Hostile {
        async fn sum(
            &self,
            self_: u8,
            ctx: u8,
            context: u8,
            args: u8,
            arguments: u8,
            client: u8,
            result: u8,
            call: u8,
            request: u8,
            invocation: u8,
            error: u8,
            unknown: u8,
            implementation: u8,
            broker: u8,
            this: u8,
            generics: u8,
        ) -> [u8; 16];
    }

    struct Mirror;

    #[allow(clippy::too_many_arguments)]
    impl Hostile for Mirror {
        async fn sum(
            &self,
            self_: u8,
            ctx: u8,
            context: u8,
            args: u8,
            arguments: u8,
            client: u8,
            result: u8,
            call: u8,
            request: u8,
            invocation: u8,
            error: u8,
            unknown: u8,
            implementation: u8,
            broker: u8,
            this: u8,
            generics: u8,
        ) -> [u8; 16] {
            [
                self_,
                ctx,
                context,
                args,
                arguments,
                client,
                result,
                call,
                request,
                invocation,
                error,
                unknown,
                implementation,
                broker,
                this,
                generics,
            ]
        }
    }

    let hostile = HostileClient::in_process(Mirror);
    let sum = hostile.sum(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    assert_eq!(sum.await.unwrap(), std::array::from_fn(|index| index as u8 + 1));
}

#[tokio::test]
async fn arguments_named_like_items_of_generated_code() {
    #[service]
    #[allow(clippy::too_many_arguments, non_snake_case)]
    trait Hostile {
        async fn items(
            &self,
            T: u8,
            service: u8,
            method_items: u8,
            Descriptors: u8,
            Implementation: u8,
            sent_items: u8,
            received_items: u8,
            arguments_travel: u8,
            SERVICE: u8,
            HostileClient: u8,
            HostileServer: u8,
        ) -> [u8; 11];
    }

    struct Mirror;

    #[allow(clippy::too_many_arguments, non_snake_case)]
    impl Hostile for Mirror {
        async fn items(
            &self,
            T: u8,
            service: u8,
            method_items: u8,
            Descriptors: u8,
            Implementation: u8,
            sent_items: u8,
            received_items: u8,
            arguments_travel: u8,
            SERVICE: u8,
            HostileClient: u8,
            HostileServer: u8,
        ) -> [u8; 11] {
            [
                T,
                service,
                method_items,
                Descriptors,
                Implementation,
                sent_items,
                received_items,
                arguments_travel,
                SERVICE,
                HostileClient,
                HostileServer,
            ]
        }
    }

    let hostile = HostileClient::in_process(Mirror);
    let items = hostile.items(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    assert_eq!(items.await.unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
}

#[tokio::test]
async fn arguments_named_like_fields_and_bindings_of_serdes_derive() {
    #[service]
    #[allow(clippy::too_many_arguments)]
    trait Hostile {
        async fn derived(
            &self,
            #[serde(default)] sent: u8,
            received: u8,
            serde: u8,
            bytes: Vec<u8>,
            serializer: u8,
            serde_state: u8,
            field: u8,
            field0: u8,
            value: u8,
            map: u8,
            generics: u8,
            generics_: u8,
            r#struct: u8,
        ) -> Vec<u8>;
    }

    struct Mirror;

    #[allow(clippy::too_many_arguments)]
    impl Hostile for Mirror {
        async fn derived(
            &self,
            sent: u8,
            received: u8,
            serde: u8,
            bytes: Vec<u8>,
            serializer: u8,
            serde_state: u8,
            field: u8,
            field0: u8,
            value: u8,
            map: u8,
            generics: u8,
            generics_: u8,
            r#struct: u8,
        ) -> Vec<u8> {
            vec![
                sent,
                received,
                serde,
                bytes[0],
                serializer,
                serde_state,
                field,
                field0,
                value,
                map,
                generics,
                generics_,
                r#struct,
            ]
        }
    }

    let hostile = HostileClient::in_process(Mirror);
    let derived = hostile.derived(1, 2, 3, vec![4], 5, 6, 7, 8, 9, 10, 11, 12, 13);
    assert_eq!(derived.await.unwrap(), (1..=13).collect::<Vec<u8>>());
}

#[tokio::test]
async fn arguments_of_a_generic_service_named_like_its_marker() {
    #[service]
    trait Hostile<T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static> {
        async fn marked(
            &self,
            #[serde(default)] generics: u8,
            generics_: u8,
            generics_generics_: T,
        ) -> (u8, u8, T);
    }

    struct Mirror;

    impl Hostile<u8> for Mirror {
        async fn marked(&self, generics: u8, generics_: u8, generics_generics_: u8) -> (u8, u8, u8) {
            (generics, generics_, generics_generics_)
        }
    }

    let hostile = HostileClient::<u8>::in_process(Mirror);
    assert_eq!(hostile.marked(1, 2, 3).await.unwrap(), (1, 2, 3));
}

#[tokio::test]
async fn a_context_named_like_a_binding_of_generated_code() {
    #[service]
    trait Hostile {
        async fn first(&self, #[rpc(context)] invocation: &Context, arguments: &str) -> String;
        async fn second(&self, client: u8, #[rpc(context)] implementation: &Context) -> String;
    }

    struct Mirror;

    impl Hostile for Mirror {
        async fn first(&self, invocation: &Context, arguments: &str) -> String {
            format!("{} {arguments}", invocation.method())
        }

        async fn second(&self, client: u8, implementation: &Context) -> String {
            format!("{} {client}", implementation.method())
        }
    }

    let hostile = HostileClient::in_process(Mirror);
    assert_eq!(hostile.first("a").await.unwrap(), "first a");
    assert_eq!(hostile.second(7).await.unwrap(), "second 7");
}

/// Generated code, and serde's, call functions of these names, some of them on the client or the
/// implementation.
macro_rules! methods {
    ($($method:ident)*) => {$(
        #[tokio::test]
        async fn $method() {
            #[service]
            trait Hostile {
                async fn $method(&self) -> String;
                async fn fallible(&self, #[serde(default)] text: &str) -> Result<u8, String>;
            }

            #[derive(Debug, Clone)]
            struct Mirror;

            impl Hostile for Mirror {
                async fn $method(&self) -> String {
                    stringify!($method).to_owned()
                }

                async fn fallible(&self, text: &str) -> Result<u8, String> {
                    Err(text.to_owned())
                }
            }

            let hostile = HostileClient::in_process(std::sync::Arc::new(Mirror));
            assert_eq!(hostile.$method().await.unwrap(), stringify!($method));
            let error = hostile.fallible("a").await.unwrap_err();
            assert!(matches!(error, rpc_runtime::CallError::Service(text) if text == "a"));
        }
    )*};
}

mod methods_named_like {
    use rpc_runtime::service;

    methods! {
        answer answer_result arguments as_ref await_ borrow build call call_fallible clone clone_from client context
        default deref descriptor drop eq fmt from from_client handle implementation into_future invocation method
        method_fallible pin poll queue r#match r#type ready serialize deserialize service text to_owned to_string
        unwrap
    }
}

/// Services beside items that would turn a binding of their name into a pattern.
macro_rules! beside_values {
    ($($test:ident: [$($item:tt)*] $rest:tt;)*) => {$(
        #[tokio::test]
        async fn $test() {
            $test::check().await;
        }

        #[allow(dead_code, non_camel_case_types, non_upper_case_globals)]
        mod $test {
            use std::borrow::Cow;

            use ::rpc_runtime::{CallError, Context, service};
            use ::serde::{Serialize, Serializer, de::DeserializeOwned};

            beside_values! {
                @each [$($item)*] $rest
                answer argument arguments broker builder bytes call client context descriptor error f field fmt
                formatter generics implementation invocation key map marker method name names outcome received
                request result sent seq serde serializer server service this unknown value visitor
            }

            #[service]
            trait Hostile<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
                async fn plain(&self, #[rpc(context)] cx: &Context, a: &str, b: &[u8], c: &[T], d: &T) -> usize;
                async fn owned(&self, a: Cow<'_, str>, b: Cow<'_, [u8]>, c: Cow<'static, [u8]>, d: Vec<u8>, e: T) -> Vec<u8>;
                async fn derived(
                    &self,
                    #[serde(serialize_with = "write", skip_serializing_if = "is_never", default = "none")] a: &u8,
                    #[serde(default, rename = "c")] b: &[T],
                    #[serde(alias = "e")] d: Vec<u8>,
                ) -> usize;
                async fn fallible(&self, a: u8) -> Result<T, String>;
                async fn bodied(&self, a: u8) -> u8 {
                    7
                }
                #[rpc(oneway)]
                async fn oneway(&self);
            }

            fn write<S: Serializer>(a: &u8, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_u8(*a)
            }

            fn is_never(_: &u8) -> bool {
                false
            }

            fn none() -> u8 {
                0
            }

            #[derive(Clone, Debug)]
            struct Mirror;

            impl Hostile<u8> for Mirror {
                async fn plain(&self, _: &Context, a: &str, b: &[u8], c: &[u8], d: &u8) -> usize {
                    a.len() + b.len() + c.len() + usize::from(*d)
                }

                async fn owned(&self, a: Cow<'_, str>, b: Cow<'_, [u8]>, c: Cow<'static, [u8]>, d: Vec<u8>, e: u8) -> Vec<u8> {
                    [a.as_bytes(), &b, &c, &d, &[e]].concat()
                }

                async fn derived(&self, a: &u8, b: &[u8], d: Vec<u8>) -> usize {
                    usize::from(*a) + b.len() + d.len()
                }

                async fn fallible(&self, a: u8) -> Result<u8, String> {
                    Err(a.to_string())
                }

                async fn oneway(&self) {}
            }

            pub(super) async fn check() {
                let hostile = HostileClient::<u8>::in_process(std::sync::Arc::new(Mirror)).clone();
                assert!(format!("{hostile:?} {:?}", HostileServer::new(Mirror)).contains("Mirror"));
                assert_eq!(hostile.plain("a", &[1], &[1], &3).await.unwrap(), 6);
                let owned = hostile.owned("a".into(), vec![1].into(), vec![2].into(), vec![3], 4);
                assert_eq!(owned.await.unwrap(), b"a\x01\x02\x03\x04");
                assert_eq!(hostile.derived(&3, &[1], vec![1]).await.unwrap(), 5);
                let refused = hostile.fallible(1).await.unwrap_err();
                assert!(matches!(refused, CallError::Service(text) if text == "1"));
                assert_eq!(hostile.bodied(1).await.unwrap(), 7);
                hostile.oneway().await.unwrap();
            }
        }
    )*};
    (@each $item:tt $rest:tt $($name:ident)*) => {
        $(beside_values! { @item $item $name $rest })*
    };
    (@item [$($item:tt)*] $name:ident [$($rest:tt)*]) => {
        pub(super) $($item)* $name $($rest)*
    };
}

beside_values! {
    constants: [const] [: () = ();];
    statics: [static] [: () = ();];
    unit_structs: [struct] [;];
    tuple_structs: [struct] [(u8);];
    functions: [fn] [() {}];
}
