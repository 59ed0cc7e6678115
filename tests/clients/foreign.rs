//! What a peer sends that knows the service `Conformance` differently: methods and arguments that
//! do not exist, others that are missing, and other names.

use rpc_runtime::service;

/// Methods of `Conformance` with other arguments, and methods that it does not have.
#[service(queue = "conformance")]
pub(crate) trait Foreign {
    /// Does not exist.
    async fn unknown(&self) -> u32;
    /// Has an argument of another type.
    async fn echo_u8(&self, value: &str) -> u8;
    /// Has no argument.
    async fn echo_i16(&self) -> i16;
    /// Has an argument more.
    async fn double(&self, value: u32, by: u32) -> u64;
    /// Has only the first argument, by its other name.
    #[rpc(name = "words.join")]
    async fn join(&self, first: &str) -> String;
}
