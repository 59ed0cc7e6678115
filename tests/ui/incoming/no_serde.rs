//! Items that the caller cannot write, and that the method cannot read.
use rpc_runtime::{Incoming, service};

#[derive(serde::Deserialize)]
struct Unwritable;

#[derive(serde::Serialize)]
struct Unreadable;

#[service]
trait Store {
    async fn write(&self, items: Incoming<Unwritable>);
    async fn read(&self, items: Incoming<Unreadable>);
}

fn main() {}
