//! Faults in signatures are the only ones shown: implementations that follow the trait are right.
use rpc_runtime::{Context, service};

#[service]
trait Clock {
    fn blocking(&self) -> u64;
    async fn exclusive(&mut self);
    async fn generic<T: Send>(&self, value: T);
    async fn pattern(&self, (a, b): (u8, u8)) -> u8;
    async fn unnamed(&self, _: u8);
    async fn underscore(&self, _a: u8);
    async fn borrowed(&self, a: &mut u8) -> Option<&'static str>;
    async fn contexts(&self, #[rpc(context)] a: &Context, #[rpc(context)] b: &Context);
    #[cfg_attr(all(), rpc(oneway))]
    async fn conditional(&self, #[serde(flatten)] a: u8);
    const LIMIT: u8;
    type Item;
}

struct Wall;

impl Clock for Wall {
    fn blocking(&self) -> u64 {
        7
    }

    async fn exclusive(&mut self) {}

    async fn generic<T: Send>(&self, _: T) {}

    async fn pattern(&self, (a, b): (u8, u8)) -> u8 {
        a + b
    }

    async fn unnamed(&self, _: u8) {}

    async fn underscore(&self, _: u8) {}

    async fn borrowed(&self, _: &mut u8) -> Option<&'static str> {
        None
    }

    async fn contexts(&self, _: &Context, _: &Context) {}

    async fn conditional(&self, _: u8) {}

    const LIMIT: u8 = 1;
    type Item = u8;
}

fn main() {}
