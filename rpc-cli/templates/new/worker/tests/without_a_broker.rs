//! Calls the worker through its client, within the process. The arguments and results are encoded
//! and decoded as over RabbitMQ.

use rpc_runtime::CallError;

use {{crate}}_api::{GreetError, GreeterClient};
use {{crate}}_worker::English;

#[tokio::test]
async fn a_person_is_greeted() -> anyhow::Result<()> {
    let greeter = GreeterClient::in_process(English);
    assert_eq!(greeter.greet(" Ada ").await?, "Hello, Ada!");
    Ok(())
}

#[tokio::test]
async fn a_name_that_cannot_be_greeted_is_an_error_of_the_method() {
    let greeter = GreeterClient::in_process(English);
    let too_long = "a".repeat(101);
    for (name, expected) in [
        ("", GreetError::NoName),
        (too_long.as_str(), GreetError::TooLong { limit: 100 }),
    ] {
        match greeter.greet(name).await {
            Err(CallError::Service(error)) => assert_eq!(error, expected),
            other => panic!("{name:?}: {other:?}"),
        }
    }
}
