//! A context that is not marked as one.
use rpc_runtime::{Context, service};

#[service]
trait Drawing {
    async fn draw(&self, cx: &Context, name: &str);
    async fn erase(&self, name: &str, cx: &Context) -> Result<u8, String>;
}

fn main() {}
