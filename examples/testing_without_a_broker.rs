//! Unit tests of both sides, with neither a broker nor a network.
//!
//! The worker is called through its client. That costs little more than a function call, and still
//! finds values that cannot be encoded. Code that calls a worker takes the client. To make the
//! *network* fail in a test, it takes a trait of the application instead, which a fake implements
//! too.
//!
//! ```sh
//! cargo run --example testing_without_a_broker
//! ```

use rpc_examples::{Directory, DirectoryError, UserDirectory, UserDirectoryClient};
use rpc_runtime::{Call, CallError, Executed};

/// Code of an application. In production, the client is `UserDirectoryClient::new(&broker)`.
async fn greeting(directory: &UserDirectoryClient, id: &str) -> String {
    match directory.get_email(id).await {
        Ok(email) => format!("dear {email}"),
        Err(CallError::Service(DirectoryError::UnknownUser { .. })) => "dear stranger".to_owned(),
        Err(error) => format!("not now: {error}"),
    }
}

/// A fake worker: an implementation like any other.
struct NobodyKnown;

impl UserDirectory for NobodyKnown {
    async fn get_email(&self, id: &str) -> Result<String, DirectoryError> {
        Err(DirectoryError::UnknownUser { id: id.to_owned() })
    }

    async fn count(&self) -> u64 {
        0
    }
}

/// What another part of the application needs from the directory. A test can fake the network here.
trait Emails {
    fn get_email(&self, id: &str) -> Call<String, DirectoryError>;
}

impl Emails for UserDirectoryClient {
    fn get_email(&self, id: &str) -> Call<String, DirectoryError> {
        // Inherent methods come first, so this is the client's, not a recursion.
        self.get_email(id)
    }
}

/// A directory whose worker was never started.
struct Unreachable;

impl Emails for Unreachable {
    fn get_email(&self, _id: &str) -> Call<String, DirectoryError> {
        Call::ready(Err(CallError::no_server("rpc_queue")))
    }
}

/// Code of an application that handles failed calls. Returns whether the call failed without having
/// run the method.
async fn may_try_again(emails: &dyn Emails) -> bool {
    match emails.get_email("user:12345").await {
        Ok(_) => false,
        Err(error) => error.executed() == Executed::No,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // The worker itself.
    let directory = UserDirectoryClient::in_process(Directory::default());
    assert_eq!(
        directory.get_email("user:12345").await.ok().as_deref(),
        Some("alice@example.com")
    );
    println!("the worker answers");

    // Code that calls it, with the real worker and with a fake one.
    assert_eq!(greeting(&directory, "user:12345").await, "dear alice@example.com");
    let nobody = UserDirectoryClient::in_process(NobodyKnown);
    assert_eq!(greeting(&nobody, "user:12345").await, "dear stranger");
    println!("its caller handles results and errors");

    // Code that handles a failing network.
    assert!(!may_try_again(&directory).await);
    assert!(may_try_again(&Unreachable).await);
    println!("its caller handles a missing worker");
}
