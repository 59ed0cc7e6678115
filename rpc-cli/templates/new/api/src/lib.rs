//! What the worker and its callers share: the service trait, and the types of its methods.

use rpc_runtime::service;
use serde::{Deserialize, Serialize};

/// Why there is no greeting. The caller gets this error as the method returned it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum GreetError {
    /// The name is empty.
    #[error("there is nobody to greet: the name is empty")]
    NoName,
    /// The name has too many characters.
    #[error("the name is too long: the limit is {limit} characters")]
    TooLong {
        /// How many characters a name may have.
        limit: usize,
    },
}

/// Greets people.
///
/// The attribute also generates `GreeterClient` for callers and `GreeterServer` for workers.
#[service(queue = "{{name}}")]
pub trait Greeter {
    /// Returns a greeting for a person.
    ///
    /// It is `idempotent`: if its worker dies, another one runs it again.
    #[rpc(idempotent)]
    async fn greet(&self, name: &str) -> Result<String, GreetError>;
}
