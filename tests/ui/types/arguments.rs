//! Arguments that cannot be sent or read.
use rpc_runtime::service;

#[service]
trait Arguments {
    async fn anything(&self, text: impl Into<String>);
    async fn dynamic(&self, text: &dyn std::fmt::Display);
    async fn option(&self, text: Option<&str>);
    async fn mutable(&self, text: &mut String);
    async fn fixed(&self, text: &'static str);
    async fn pattern(&self, (a, b): (u8, u8), _: u8, mut c: u8);
    async fn itself(&self, other: Self);
}

fn main() {}
