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
}

#[tokio::test]
async fn traits_of_every_type_may_have_methods_of_any_name() {
    use blanket::Everything as _;

    #[service]
    trait Shop {
        async fn buy(&self, what: &str) -> Result<u8, String>;
    }

    struct Closed;

    impl Shop for Closed {
        async fn buy(&self, what: &str) -> Result<u8, String> {
            Err(format!("no {what}{}", what.text()))
        }
    }

    let error = ShopClient::in_process(Closed).buy("bread").await.unwrap_err();
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

#[service]
#[allow(clippy::too_many_arguments, non_snake_case)]
trait Hostile {
    async fn internals(
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
    ) -> u32;
    async fn more(
        &self,
        #[rpc(context)] invocation: &Context,
        text: &str,
        f: u8,
        a: u8,
        T: u8,
        r#type: u8,
        r#async: &[u8],
        __service: u8,
        __method_more: u8,
        __Implementation: u8,
        method: u8,
        plan: u8,
        names: u8,
        map: u8,
    ) -> u32;
    async fn derived(
        &self,
        #[serde(default)] sent: u8,
        received: u8,
        __serde: u8,
        __bytes: Vec<u8>,
        serializer: u8,
        __field: u8,
        value: u8,
        de: u8,
        generics_: u8,
        r#struct: u8,
    ) -> u32;
    async fn r#match(&self) -> u32;
    async fn call(&self) -> u32;
    async fn clone(&self) -> u32;
    async fn from_client(&self) -> u32;
    async fn descriptor(&self) -> u32;
    async fn handle(&self, invocation: &str) -> u32;
    async fn text(&self) -> Result<u32, String>;
    async fn fmt(&self) -> u32;
    async fn serialize(&self) -> u32;
}

struct Mirror;

#[allow(clippy::too_many_arguments, non_snake_case)]
impl Hostile for Mirror {
    async fn internals(
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
    ) -> u32 {
        sum([
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
        ])
    }

    async fn more(
        &self,
        invocation: &Context,
        text: &str,
        f: u8,
        a: u8,
        T: u8,
        r#type: u8,
        r#async: &[u8],
        __service: u8,
        __method_more: u8,
        __Implementation: u8,
        method: u8,
        plan: u8,
        names: u8,
        map: u8,
    ) -> u32 {
        assert_eq!((invocation.method(), text, r#async), ("more", "text", &[1][..]));
        sum([
            f,
            a,
            T,
            r#type,
            __service,
            __method_more,
            __Implementation,
            method,
            plan,
            names,
            map,
        ])
    }

    async fn derived(
        &self,
        sent: u8,
        received: u8,
        __serde: u8,
        __bytes: Vec<u8>,
        serializer: u8,
        __field: u8,
        value: u8,
        de: u8,
        generics_: u8,
        r#struct: u8,
    ) -> u32 {
        sum([
            sent, received, __serde, __bytes[0], serializer, __field, value, de, generics_, r#struct,
        ])
    }

    async fn r#match(&self) -> u32 {
        1
    }

    async fn call(&self) -> u32 {
        2
    }

    async fn clone(&self) -> u32 {
        3
    }

    async fn from_client(&self) -> u32 {
        4
    }

    async fn descriptor(&self) -> u32 {
        5
    }

    async fn handle(&self, _: &str) -> u32 {
        6
    }

    async fn text(&self) -> Result<u32, String> {
        Err("7".to_owned())
    }

    async fn fmt(&self) -> u32 {
        8
    }

    async fn serialize(&self) -> u32 {
        9
    }
}

fn sum<const N: usize>(numbers: [u8; N]) -> u32 {
    numbers.map(u32::from).iter().sum()
}

#[tokio::test]
async fn arguments_and_methods_may_have_any_name() {
    let hostile = HostileClient::in_process(Mirror);
    let internals = hostile.internals(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
    assert_eq!(internals.await.unwrap(), 16);
    let more = hostile.more("text", 1, 1, 1, 1, &[1], 1, 1, 1, 1, 1, 1, 1);
    assert_eq!(more.await.unwrap(), 11);
    let derived = hostile.derived(1, 1, 1, vec![1], 1, 1, 1, 1, 1, 1);
    assert_eq!(derived.await.unwrap(), 10);
    assert_eq!(hostile.r#match().await.unwrap(), 1);
    assert_eq!(hostile.call().await.unwrap(), 2);
    assert_eq!(hostile.clone().await.unwrap(), 3);
    assert_eq!(hostile.from_client().await.unwrap(), 4);
    assert_eq!(hostile.descriptor().await.unwrap(), 5);
    assert_eq!(hostile.handle("").await.unwrap(), 6);
    assert!(hostile.text().await.is_err());
    assert_eq!(hostile.fmt().await.unwrap(), 8);
    assert_eq!(hostile.serialize().await.unwrap(), 9);
}
