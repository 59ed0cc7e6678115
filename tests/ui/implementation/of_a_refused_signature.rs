//! Faults in signatures are the only ones shown: implementations that follow the trait are right, and so are calls.
use std::sync::Arc;

use rpc_runtime::{Broker, Context, Server, service};

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
    async fn unlent() -> &'static str;
    async fn answers_itself(&self, other: Option<Self>) -> Self
    where
        Self: Sized;
    const fn constant(&self, #[serde(with = "nothing", nonsense)] a: u8) -> u8;
    pub async fn public(&self) -> u8;
    async fn never(&self) -> !;
    async fn builder(&self) -> u8;
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

    async fn unlent() -> &'static str {
        ""
    }

    async fn answers_itself(&self, _: Option<Self>) -> Self {
        Self
    }

    fn constant(&self, _: u8) -> u8 {
        7
    }

    async fn public(&self) -> u8 {
        7
    }

    async fn never(&self) -> ! {
        loop {
            std::future::pending::<()>().await;
        }
    }

    async fn builder(&self) -> u8 {
        7
    }

    const LIMIT: u8 = 1;
    type Item = u8;
}

async fn call(broker: &Broker) -> Result<u8, Box<dyn std::error::Error>> {
    let client = ClockClient::builder(broker).build();
    client.blocking().await?;
    client.exclusive().await?;
    client.generic("text").await?;
    client.pattern((1, 2)).await?;
    client.unnamed(1).await?;
    client.underscore(1).await?;
    let _: Option<&'static str> = client.borrowed(&mut 1).await?;
    client.contexts().await?;
    client.conditional(1).await?;
    let _: &str = client.unlent().await?;
    client.answers_itself(Some(Wall)).await?;
    client.constant(1).await?;
    let _ = client.never();
    Ok(client.public().await?)
}

fn serve(server: Server) -> Server {
    server
        .serve(ClockServer::new(Wall))
        .serve(ClockServer::new(Arc::new(Wall)))
}

fn main() {}
