//! Methods with a body in the trait: an implementation may leave them out, and a caller does not
//! see it.

use rpc_runtime::{Broker, CallError, Context, Server, service};

#[service]
trait Greeter {
    async fn name(&self) -> Result<String, String>;

    async fn greet(&self, other: &str, times: u8) -> Result<String, String> {
        if times == 0 {
            return Err(format!("not greeting {other}"));
        }
        let greeting = format!("{} greets {other}", self.name().await?);
        Ok(vec![greeting; times.into()].join(", "))
    }

    async fn method(&self, #[rpc(context)] cx: &Context, #[serde(default)] suffix: &str) -> String {
        format!("{}{suffix}", cx.method())
    }

    #[rpc(oneway)]
    async fn ignore(&self, event: String) {}
}

/// Leaves out what it can.
struct Lazy;

impl Greeter for Lazy {
    async fn name(&self) -> Result<String, String> {
        Ok("lazy".to_owned())
    }
}

/// Leaves out nothing.
struct Eager;

impl Greeter for Eager {
    async fn name(&self) -> Result<String, String> {
        Err("no name".to_owned())
    }

    async fn greet(&self, other: &str, _: u8) -> Result<String, String> {
        Ok(format!("hello {other}"))
    }

    async fn method(&self, _: &Context, suffix: &str) -> String {
        suffix.to_owned()
    }

    async fn ignore(&self, _: String) {}
}

#[tokio::test]
async fn a_method_that_is_left_out_is_called() {
    let greeter = GreeterClient::in_process(Lazy);
    assert_eq!(
        greeter.greet("a", 2).await.unwrap(),
        "lazy greets a, lazy greets a"
    );
}

#[tokio::test]
async fn a_method_that_is_left_out_is_called_over_a_broker() {
    let broker = Broker::in_process();
    let server = Server::new(&broker)
        .serve(GreeterServer::new(Lazy))
        .start()
        .await
        .unwrap();
    let greeter = GreeterClient::new(&broker);
    assert_eq!(greeter.greet("a", 1).await.unwrap(), "lazy greets a");
    assert_eq!(greeter.method("!").await.unwrap(), "method!");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_method_that_is_not_left_out_is_the_implementations() {
    let greeter = GreeterClient::in_process(Eager);
    assert_eq!(greeter.greet("a", 2).await.unwrap(), "hello a");
    assert_eq!(greeter.method("!").await.unwrap(), "!");
}

#[tokio::test]
async fn a_body_may_return_early_with_an_error() {
    let refused = GreeterClient::in_process(Lazy).greet("a", 0).await.unwrap_err();
    assert!(matches!(refused, CallError::Service(reason) if reason == "not greeting a"));
}

#[tokio::test]
async fn a_body_may_use_the_question_mark() {
    #[service]
    trait Asker {
        async fn ask(&self) -> Result<u8, String>;
        async fn twice(&self) -> Result<u8, String> {
            Ok(self.ask().await? * 2)
        }
    }

    struct Silent;

    impl Asker for Silent {
        async fn ask(&self) -> Result<u8, String> {
            Err("silence".to_owned())
        }
    }

    let error = AskerClient::in_process(Silent).twice().await.unwrap_err();
    assert!(matches!(error, CallError::Service(reason) if reason == "silence"));
}

#[tokio::test]
async fn a_body_sees_the_context() {
    let greeter = GreeterClient::in_process(Lazy);
    assert_eq!(greeter.method("!").await.unwrap(), "method!");
}

#[tokio::test]
async fn a_one_way_method_may_have_a_body() {
    GreeterClient::in_process(Lazy)
        .ignore("event".into())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_body_of_a_generic_service_sees_its_parameters() {
    #[service]
    trait Sized<const N: usize, T: serde::Serialize + serde::de::DeserializeOwned + Default + Send + 'static>
    {
        async fn both(&self) -> (usize, T) {
            (N, T::default())
        }
    }

    struct Any;

    impl Sized<7, String> for Any {}

    let sized = SizedClient::<7, String>::in_process(Any);
    assert_eq!(sized.both().await.unwrap(), (7, String::new()));
}

#[tokio::test]
async fn an_arc_delegates_to_the_value_it_holds() {
    let greeter = GreeterClient::in_process(std::sync::Arc::new(Eager));
    assert_eq!(greeter.greet("a", 2).await.unwrap(), "hello a");
}

/// syn cannot parse the function with `...` in front, and the compiler refuses it only if it is
/// compiled.
#[tokio::test]
async fn a_body_may_have_syntax_that_only_the_compiler_parses() {
    #[service]
    trait Modern {
        async fn count(&self) -> u8 {
            #![allow(unused_mut)]
            #[cfg(any())]
            fn misplaced(_: ..., count: u8) {}

            macro_rules! count {
                ($($_:literal then)* nothing) => { [$($_),*].len() };
            }
            let mut count = count!(1 then 2 then nothing);
            count.try_into().unwrap_or_default()
        }
    }

    struct Any;

    impl Modern for Any {}

    assert_eq!(ModernClient::in_process(Any).count().await.unwrap(), 2);
}

/// `macro_rules!` puts a block that it was given into invisible delimiters.
#[tokio::test]
async fn a_body_may_be_given_to_a_macro() {
    macro_rules! declare {
        ($body:block) => {
            #[service]
            trait Declared {
                async fn count(&self) -> u8 $body
            }
        };
    }

    declare!({
        let count = 2;
        count + 1
    });

    struct Any;

    impl Declared for Any {}

    assert_eq!(DeclaredClient::in_process(Any).count().await.unwrap(), 3);
}
