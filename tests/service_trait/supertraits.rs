//! Traits that ask more of their implementations than to serve.

use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;

use rpc_runtime::{Broker, Server, service};

trait Named: Send {
    fn name(&self) -> String;
}

impl<T: Named + Sync> Named for Arc<T> {
    fn name(&self) -> String {
        (**self).name()
    }
}

#[derive(Debug, Clone)]
struct English;

impl Named for English {
    fn name(&self) -> String {
        "English".to_owned()
    }
}

impl Display for English {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("the")
    }
}

#[service]
trait Greeter: Named {
    async fn greet(&self, name: &str) -> String {
        format!("hello {name}, in {}", self.name())
    }
}

impl Greeter for English {}

#[tokio::test]
async fn a_supertrait_of_the_users() {
    let greeter = GreeterClient::in_process(English);
    assert_eq!(greeter.greet("a").await.unwrap(), "hello a, in English");
}

#[tokio::test]
async fn supertraits_of_the_standard_library() {
    #[service]
    trait Shown: Debug + Display + Clone {
        async fn show(&self) -> String {
            format!("{self} {:?}", self.clone())
        }
    }

    impl Shown for English {}

    assert_eq!(
        ShownClient::in_process(English).show().await.unwrap(),
        "the English"
    );
}

#[tokio::test]
async fn a_supertrait_that_the_service_has_anyway() {
    #[service]
    trait Anyway: Send + Sync + 'static {
        async fn one(&self) -> u8 {
            1
        }
    }

    impl Anyway for English {}

    assert_eq!(AnywayClient::in_process(English).one().await.unwrap(), 1);
}

#[tokio::test]
async fn a_service_as_supertrait() {
    #[service]
    trait Polite: Greeter {
        async fn thank(&self, name: &str) -> String {
            format!("{}; thanks", self.greet(name).await)
        }
    }

    impl Polite for English {}

    let polite = PoliteClient::in_process(English);
    assert_eq!(polite.thank("a").await.unwrap(), "hello a, in English; thanks");
}

#[tokio::test]
async fn a_supertrait_of_a_generic_service() {
    #[service]
    trait Same<T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static>:
        Debug + From<T>
    {
        async fn same(&self, value: T) -> String {
            format!("{:?}", Self::from(value))
        }
    }

    #[derive(Debug)]
    struct Number(#[allow(dead_code)] u8);

    impl From<u8> for Number {
        fn from(number: u8) -> Self {
            Self(number)
        }
    }

    impl Same<u8> for Number {}

    assert_eq!(
        SameClient::in_process(Number(1)).same(7).await.unwrap(),
        "Number(7)"
    );
}

#[tokio::test]
async fn an_arc_of_an_implementation_is_hosted() {
    let broker = Broker::in_process();
    let english = Arc::new(English);
    let server = Server::new(&broker)
        .serve(GreeterServer::new(Arc::clone(&english)))
        .start()
        .await
        .unwrap();
    let greeted = GreeterClient::new(&broker).greet("a").await;
    assert_eq!(greeted.unwrap(), "hello a, in English");
    server.stop().await.unwrap();
}

/// What the service needs is behind a trait object: the supertrait can be asked of what is hosted.
#[tokio::test]
async fn an_implementation_around_a_trait_object_is_hosted() {
    struct Speaking(Arc<dyn Named + Sync>);

    impl Named for Speaking {
        fn name(&self) -> String {
            self.0.name()
        }
    }

    impl Greeter for Speaking {}

    let broker = Broker::in_process();
    let speaking = Speaking(Arc::new(English));
    let server = Server::new(&broker)
        .serve(GreeterServer::new(speaking))
        .start()
        .await
        .unwrap();
    let greeted = GreeterClient::new(&broker).greet("a").await;
    assert_eq!(greeted.unwrap(), "hello a, in English");
    server.stop().await.unwrap();
}

/// Where an `Arc` has not the supertraits, it is no implementation; what it holds still is one.
#[tokio::test]
async fn an_arc_need_not_have_the_supertraits() {
    trait Own: Send {}

    #[service]
    trait Picky: Own {
        async fn one(&self) -> u8;
    }

    impl Own for English {}

    impl Picky for English {
        async fn one(&self) -> u8 {
            1
        }
    }

    assert_eq!(PickyClient::in_process(English).one().await.unwrap(), 1);
}
