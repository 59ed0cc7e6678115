//! A type that does not implement a service by itself is served without the generated server.
use rpc_runtime::{RequestQueue, Server, service};

#[service]
trait Directory {
    async fn get_email(&self, id: String) -> Option<String>;
}

struct Staff;

impl Directory for Staff {
    async fn get_email(&self, _: String) -> Option<String> {
        None
    }
}

/// Nobody implements the trait for it.
struct Nobody;

fn serve(server: Server) -> Server {
    server
        .serve(Staff)
        .serve_on(RequestQueue::new("directory"), Staff)
        .serve(DirectoryServer::new(Nobody))
}

fn main() {}
