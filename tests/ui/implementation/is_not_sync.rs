//! An implementation that calls cannot share.
use std::cell::Cell;

use rpc_runtime::service;

#[service]
trait Clock {
    async fn now(&self) -> u64;
}

struct Wall(Cell<u64>);

impl Clock for Wall {
    async fn now(&self) -> u64 {
        self.0.get()
    }
}

fn main() {}
