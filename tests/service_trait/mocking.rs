//! mockall makes a mock of a service's trait, if `#[service]` stands above `#[automock]`.

use rpc_runtime::{CallError, service};

#[service]
#[mockall::automock]
trait Directory {
    /// The address of one user.
    #[rpc(idempotent)]
    async fn get_email(&self, id: &str) -> Result<String, String>;
    #[rpc(oneway)]
    async fn touch(&self, times: u64);
}

#[tokio::test]
async fn a_mock_is_called_as_the_service_is() {
    let mut directory = MockDirectory::new();
    directory.expect_get_email().returning(|id| {
        let known = (id == "alice").then(|| format!("{id}@example.com"));
        Box::pin(std::future::ready(known.ok_or_else(|| format!("no user {id}"))))
    });
    directory
        .expect_touch()
        .withf(|times| *times == 2)
        .times(1)
        .returning(|_| Box::pin(std::future::ready(())));
    let client = DirectoryClient::in_process(directory);
    assert_eq!(client.get_email("alice").await.unwrap(), "alice@example.com");
    let refused = client.get_email("bob").await.unwrap_err();
    assert!(
        matches!(&refused, CallError::Service(error) if error == "no user bob"),
        "{refused:?}"
    );
    client.touch(2).await.unwrap();
}
