//! A fault in the trait is the only one shown: its implementation and its calls are right.
use rpc_runtime::{Context, service};

#[service]
trait Clock {
    #[rpc(timeuot = "2s")]
    async fn now(&self, #[rpc(context)] cx: &Context, #[serde(default)] zone: &str) -> u64;
    async fn zone(&self) -> String;
    async fn zones(&self) -> Vec<String> {
        vec![self.zone().await]
    }
}

struct Wall;

impl Clock for Wall {
    async fn now(&self, _: &Context, _: &str) -> u64 {
        7
    }

    async fn zone(&self) -> String {
        String::new()
    }
}

fn main() {}
