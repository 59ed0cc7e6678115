//! How visible a service is, where it stands, and what stands beside it.

use rpc_runtime::service;
use serde::{Deserialize, Serialize};

/// Types as private as the traits that take them: that it compiles without a warning is half of
/// each test.
mod inner {
    use rpc_runtime::service;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Secret(u8);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Internal(pub(crate) u8);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Restricted(pub(super) u8);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(in crate::visibility) struct Located(pub(in crate::visibility) u8);

    #[service]
    trait Private {
        async fn give(&self, secret: &Secret) -> Result<Secret, Secret>;
        async fn default(&self, #[serde(default = "no_secret")] secret: Secret) -> Secret;
    }

    fn no_secret() -> Secret {
        Secret(0)
    }

    #[service]
    pub(crate) trait Crate {
        async fn give(&self, internal: Internal) -> Result<Internal, Internal>;
        async fn default(&self, #[serde(default = "none_internal")] internal: &Internal) -> u8;
    }

    fn none_internal() -> Internal {
        Internal(0)
    }

    #[service]
    pub(super) trait Super {
        async fn give(&self, restricted: Restricted) -> Result<Restricted, Restricted>;
    }

    #[service]
    pub(in crate::visibility) trait In {
        async fn give(&self, located: Located) -> Result<Located, Located>;
    }

    pub(crate) struct Mirror;

    impl Private for Mirror {
        async fn give(&self, secret: &Secret) -> Result<Secret, Secret> {
            Err(Secret(secret.0))
        }

        async fn default(&self, secret: Secret) -> Secret {
            secret
        }
    }

    impl Crate for Mirror {
        async fn give(&self, internal: Internal) -> Result<Internal, Internal> {
            Ok(internal)
        }

        async fn default(&self, internal: &Internal) -> u8 {
            internal.0
        }
    }

    impl Super for Mirror {
        async fn give(&self, restricted: Restricted) -> Result<Restricted, Restricted> {
            Ok(restricted)
        }
    }

    impl In for Mirror {
        async fn give(&self, located: Located) -> Result<Located, Located> {
            Ok(located)
        }
    }

    #[tokio::test]
    async fn a_private_trait_with_private_types() {
        let client = PrivateClient::in_process(Mirror);
        let error = client.give(&Secret(1)).await.unwrap_err();
        assert!(matches!(error, rpc_runtime::CallError::Service(Secret(1))));
        assert_eq!(client.default(Secret(2)).await.unwrap(), Secret(2));
    }
}

#[tokio::test]
async fn a_crate_wide_trait_with_crate_wide_types() {
    let client = inner::CrateClient::in_process(inner::Mirror);
    assert_eq!(client.give(inner::Internal(1)).await.unwrap(), inner::Internal(1));
    assert_eq!(client.default(&inner::Internal(2)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_trait_of_the_module_above_with_types_of_it() {
    let client = inner::SuperClient::in_process(inner::Mirror);
    assert_eq!(
        client.give(inner::Restricted(1)).await.unwrap(),
        inner::Restricted(1)
    );
}

#[tokio::test]
async fn a_trait_of_a_path_with_types_of_it() {
    let client = inner::InClient::in_process(inner::Mirror);
    assert_eq!(client.give(inner::Located(1)).await.unwrap(), inner::Located(1));
}

/// A public trait is seen, with its client and its server, from another crate.
#[tokio::test]
async fn a_public_trait_with_public_types() {
    use rpc_runtime::{Broker, Context, Server};
    use rpc_strict_fixture::strict::{Bag, BagClient, BagServer, Thing};

    struct Sack;

    impl Bag<Thing> for Sack {
        async fn put(&self, _: &Context, one: &Thing) -> Thing {
            Thing(one.0 + 1)
        }
    }

    let broker = Broker::in_process();
    let server = Server::new(&broker)
        .serve(BagServer::new(Sack))
        .start()
        .await
        .unwrap();
    let bag = BagClient::<Thing>::new(&broker);
    assert_eq!(bag.put(&Thing(1)).await.unwrap(), Thing(2));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_trait_in_a_function() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Local(u8);

    #[service]
    trait Inner {
        async fn echo(&self, local: &Local) -> Local;
        async fn derived(&self, #[serde(default = "zero")] local: Local) -> Result<Local, Local>;
    }

    fn zero() -> Local {
        Local(0)
    }

    struct Echo;

    impl Inner for Echo {
        async fn echo(&self, local: &Local) -> Local {
            Local(local.0)
        }

        async fn derived(&self, local: Local) -> Result<Local, Local> {
            Ok(local)
        }
    }

    let inner = InnerClient::in_process(Echo);
    assert_eq!(inner.echo(&Local(3)).await.unwrap(), Local(3));
    assert_eq!(inner.derived(Local(4)).await.unwrap(), Local(4));
}

/// The same names in both, and one implementation of both.
mod siblings {
    use rpc_runtime::{Broker, Server, service};

    #[service]
    trait First {
        async fn call(&self, #[serde(default)] text: &str) -> Result<String, String>;
        async fn name(&self) -> u8;
    }

    #[service]
    trait Second {
        async fn call(&self, #[serde(default)] text: &str) -> Result<String, String>;
        async fn name(&self) -> u8;
    }

    #[derive(Clone)]
    struct Both;

    impl First for Both {
        async fn call(&self, text: &str) -> Result<String, String> {
            Ok(format!("first {text}"))
        }

        async fn name(&self) -> u8 {
            1
        }
    }

    impl Second for Both {
        async fn call(&self, text: &str) -> Result<String, String> {
            Err(format!("second {text}"))
        }

        async fn name(&self) -> u8 {
            2
        }
    }

    #[tokio::test]
    async fn several_services_in_one_module() {
        let broker = Broker::in_process();
        let server = Server::new(&broker)
            .serve(FirstServer::new(Both))
            .serve(SecondServer::new(Both))
            .start()
            .await
            .unwrap();
        let (first, second) = (FirstClient::new(&broker), SecondClient::new(&broker));
        assert_eq!(first.call("a").await.unwrap(), "first a");
        let error = second.call("a").await.unwrap_err();
        assert!(matches!(error, rpc_runtime::CallError::Service(text) if text == "second a"));
        assert_eq!(
            (first.name().await.unwrap(), second.name().await.unwrap()),
            (1, 2)
        );
        server.stop().await.unwrap();
    }
}
