//! Options under a condition, attributes of `&self`, and syntax that is not that of options.
use rpc_runtime::{Context, service};

#[service]
trait Conditional {
    #[cfg_attr(unix, rpc(default))]
    async fn method(&self);
    async fn parameters(&self, #[cfg(unix)] a: u8, #[cfg_attr(unix, rpc(context))] cx: &Context);
    #[rpc(name = , timeout("2s"), retries)]
    async fn malformed(&self);
    async fn receiver(#[cfg_attr(unix, serde(default))] #[serde(default)] &self);
}

fn main() {}
