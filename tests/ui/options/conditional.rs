//! Options that depend on a condition, and syntax that is not that of options.
use rpc_runtime::{Context, service};

#[service]
trait Conditional {
    #[cfg_attr(unix, rpc(default))]
    async fn method(&self);
    async fn parameters(&self, #[cfg(unix)] a: u8, #[cfg_attr(unix, rpc(context))] cx: &Context);
    #[rpc(name = , timeout("2s"), retries)]
    async fn malformed(&self);
}

fn main() {}
