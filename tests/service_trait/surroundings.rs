//! Where a service trait may stand.

use rpc_runtime::service;

/// The crate `rpc-strict-fixture` denies every lint, has no prelude, and knows the runtime by other names.
mod strict {
    use rpc_runtime::Context;
    use rpc_strict_fixture::facade::{Ping, PingClient};
    use rpc_strict_fixture::{Bag, BagClient, Notes, NotesClient};

    struct Desk;

    impl Notes for Desk {
        async fn read(&self, name: &str) -> Result<Vec<u8>, String> {
            Ok(name.into())
        }

        async fn remove(&self, _: String) {}

        async fn old(&self) {}
    }

    impl Bag<u8> for Desk {
        async fn put(&self, _: &Context, one: &u8) -> u8 {
            *one
        }
    }

    impl Ping for Desk {
        async fn ping(&self, text: &str, times: Vec<u8>) -> usize {
            text.len() * times.len()
        }
    }

    #[tokio::test]
    async fn under_every_lint_and_without_a_prelude() {
        let notes = NotesClient::in_process(Desk);
        assert_eq!(notes.read("a").await.unwrap(), b"a");
        assert_eq!(notes.count("ab").await.unwrap(), 7);
        assert_eq!(BagClient::in_process(Desk).put(&3).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn through_a_facade() {
        let ping = PingClient::in_process(Desk);
        assert_eq!(ping.ping("abc", vec![0, 0]).await.unwrap(), 6);
    }
}

/// Types as private as their traits; several traits in one module.
mod visibilities {
    use rpc_runtime::service;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Secret(u8);

    #[derive(Serialize, Deserialize)]
    pub(crate) struct Internal(pub(crate) u8);

    #[derive(Serialize, Deserialize)]
    pub(super) struct Restricted(pub(super) u8);

    #[service]
    trait Private {
        async fn secret(&self, secret: &Secret) -> Secret;
    }

    #[service]
    pub(crate) trait Crate {
        async fn internal(&self, internal: Internal) -> Internal;
    }

    #[service]
    pub(super) trait Super {
        async fn restricted(&self, #[serde(default = "zero")] restricted: &Restricted) -> u8;
    }

    fn zero() -> Restricted {
        Restricted(0)
    }

    pub(crate) struct All;

    impl Private for All {
        async fn secret(&self, secret: &Secret) -> Secret {
            Secret(secret.0)
        }
    }

    impl Crate for All {
        async fn internal(&self, internal: Internal) -> Internal {
            internal
        }
    }

    impl Super for All {
        async fn restricted(&self, restricted: &Restricted) -> u8 {
            restricted.0
        }
    }

    #[tokio::test]
    async fn a_private_trait_with_private_types() {
        let client = PrivateClient::in_process(All);
        assert_eq!(client.secret(&Secret(1)).await.unwrap().0, 1);
    }
}

#[tokio::test]
async fn traits_of_restricted_visibility() {
    use visibilities::{All, CrateClient, Internal, Restricted, SuperClient};
    let client = CrateClient::in_process(All);
    assert_eq!(client.internal(Internal(1)).await.unwrap().0, 1);
    let client = SuperClient::in_process(All);
    assert_eq!(client.restricted(&Restricted(2)).await.unwrap(), 2);
}

#[tokio::test]
async fn within_a_function() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Local(u8);

    #[service]
    trait Inner {
        async fn echo(&self, #[serde(default = "zero")] local: Local) -> Local;
    }

    fn zero() -> Local {
        Local(0)
    }

    struct Echo;

    impl Inner for Echo {
        async fn echo(&self, local: Local) -> Local {
            local
        }
    }

    assert_eq!(InnerClient::in_process(Echo).echo(Local(3)).await.unwrap().0, 3);
}

macro_rules! counter {
    ($name:ident, $implementation:ident, $ty:ty, $argument:ident, $doc:literal, $queue:literal, $limit:expr) => {
        #[doc = $doc]
        #[service(queue = $queue)]
        trait $name {
            #[rpc(timeout = $limit)]
            async fn add(&self, $argument: $ty, by: &$ty) -> $ty {
                let sum = $argument + by;
                self.id(sum).await
            }
            async fn id(&self, value: $ty) -> $ty;
            async fn bytes(&self, #[serde(default)] value: Vec<$ty>) -> usize;
        }

        struct $implementation;

        impl $name for $implementation {
            async fn id(&self, value: $ty) -> $ty {
                value
            }

            async fn bytes(&self, value: Vec<$ty>) -> usize {
                value.len()
            }
        }
    };
}

counter!(
    Small,
    SmallCounter,
    u8,
    number,
    "Counts small things.",
    "counter.small",
    "2s"
);
counter!(
    Large,
    LargeCounter,
    u64,
    value,
    "Counts large things.",
    "counter.large",
    "3s"
);

#[tokio::test]
async fn out_of_a_macro() {
    assert_eq!(SmallClient::in_process(SmallCounter).add(1, &2).await.unwrap(), 3);
    assert_eq!(LargeClient::in_process(LargeCounter).add(1, &2).await.unwrap(), 3);
    assert_eq!(
        SmallClient::in_process(SmallCounter)
            .bytes(vec![1])
            .await
            .unwrap(),
        1
    );
}

#[service]
trait Conditional {
    #[cfg(unix)]
    async fn system(&self, #[serde(default)] name: &str) -> String;
    #[cfg(not(unix))]
    async fn system(&self, name: &str) -> String;
    #[cfg(any())]
    async fn never(&self, #[serde(default)] missing: NoSuchType) -> NoSuchType;
    #[cfg(any(unix, windows))]
    async fn always(&self) -> u8;
}

#[cfg(any())]
#[service]
trait Absent {
    async fn never(&self, missing: NoSuchType) -> NoSuchType;
}

struct Unix;

impl Conditional for Unix {
    async fn system(&self, name: &str) -> String {
        name.to_owned()
    }

    async fn always(&self) -> u8 {
        1
    }
}

#[tokio::test]
async fn under_conditions() {
    let conditional = ConditionalClient::in_process(Unix);
    assert_eq!(conditional.system("unix").await.unwrap(), "unix");
    assert_eq!(conditional.always().await.unwrap(), 1);
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
