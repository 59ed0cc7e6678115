//! Attributes of serde that make no sense on an argument.
use rpc_runtime::{Context, service};

#[service]
trait Attributes {
    async fn context(&self, #[rpc(context)] #[serde(default)] cx: &Context);
    async fn skipped(&self, #[serde(skip)] a: u8);
    async fn renamed(&self, #[serde(rename(serialize = "b"))] a: u8, #[serde(rename = "a")] b: u8);
    async fn misspelt(&self, #[inline] a: u8);
}

fn main() {}
