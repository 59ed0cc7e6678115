//! What serde says of an attribute that it does not know.
use rpc_runtime::service;

#[service]
trait Attributes {
    async fn misspelt(&self, #[serde(defualt)] a: u8);
}

fn main() {}
