//! A layer for a server or a client must make a service for its calls.

use rpc_runtime::{Broker, Server, service};

#[service]
pub trait Directory {
    async fn count(&self) -> u64;
}

struct Users;

impl Directory for Users {
    async fn count(&self) -> u64 {
        0
    }
}

struct NoLayer;

fn main() {
    let broker = Broker::in_process();
    let _ = Server::new(&broker)
        .layer(tower::limit::ConcurrencyLimitLayer::new(1))
        .layer(NoLayer)
        .serve(DirectoryServer::new(Users));
    let _ = DirectoryClient::builder(&broker)
        .layer(tower::limit::ConcurrencyLimitLayer::new(1))
        .layer(NoLayer)
        .build();
}
