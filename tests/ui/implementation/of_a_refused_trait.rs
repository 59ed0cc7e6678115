//! A fault in the trait is the only one shown: its implementation, its client, its server and all their uses are right.
use std::sync::Arc;

use rpc_runtime::{Broker, Call, Context, Server, service};

mod contract {
    use super::{Context, service};

    #[service]
    pub trait Clock {
        #[rpc(timeuot = "2s")]
        async fn now(&self, #[rpc(context)] cx: &Context, #[serde(default)] zone: &str) -> u64;
        async fn zone(&self) -> String;
        async fn set(&self, #[rpc(contxt)] cx: &Context, time: u64) -> Result<(), String>;
        #[rpc(oneway)]
        async fn tick(&self);
        async fn zones(&self) -> Vec<String> {
            vec![self.zone().await]
        }
    }
}

use contract::{Clock, ClockClient, ClockServer};

#[derive(Clone, Debug)]
struct Wall {
    client: Option<ClockClient>,
}

impl Clock for Wall {
    async fn now(&self, _: &Context, _: &str) -> u64 {
        7
    }

    async fn zone(&self) -> String {
        String::new()
    }

    async fn set(&self, _: &Context, _: u64) -> Result<(), String> {
        Ok(())
    }

    async fn tick(&self) {}
}

async fn call(broker: &Broker) -> Result<u64, Box<dyn std::error::Error>> {
    let client = ClockClient::new(broker);
    let other: ClockClient = ClockClient::builder(broker).queue("other").build();
    let _: Call<(), String> = client.set(8);
    other.clone().tick().await?;
    let _: Call<Vec<String>> = client.zones();
    let zone: String = client.zone().timeout(std::time::Duration::from_secs(1)).await?;
    Ok(client.now(&zone).await?)
}

fn serve(server: Server) -> Server {
    let wall = Wall {
        client: Some(ClockClient::in_process(Wall { client: None })),
    };
    let shared: ClockServer<Arc<Wall>> = ClockServer::new(Arc::new(wall.clone()));
    server.serve(ClockServer::new(wall)).serve(shared.clone())
}

fn main() {}
