//! Attributes of serde that are not known, and those that are not written right.
use rpc_runtime::service;

#[service]
trait Attributes {
    async fn misspelt(&self, #[serde(defualt)] a: u8, #[serde(skip_serialising_if = "zero")] b: u8);
    async fn malformed(&self, #[serde(default = )] a: u8, #[serde(rename)] b: u8, #[serde(with = mine)] c: u8);
    async fn unfit(&self, #[serde(flatten)] a: u8, #[serde(skip_deserializing)] b: u8);
}

fn main() {}
