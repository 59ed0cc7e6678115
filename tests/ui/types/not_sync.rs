//! Arguments that may not be lent to another thread.
use std::cell::Cell;

use rpc_runtime::service;

#[service]
trait Drawing {
    async fn draw(&self, name: &str, point: &Cell<u8>, points: &[Cell<u16>]);
}

fn main() {}
