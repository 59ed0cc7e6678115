//! Results that cannot be sent back.
use rpc_runtime::service;

#[service]
trait Results {
    async fn text(&self) -> &str;
    async fn bytes(&self) -> Result<&[u8], String>;
    async fn anything(&self) -> impl std::fmt::Display;
    async fn borrowed(&self) -> std::borrow::Cow<'_, str>;
}

fn main() {}
