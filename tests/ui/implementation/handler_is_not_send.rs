//! A handler that cannot move between threads.
use std::rc::Rc;

use rpc_runtime::service;

#[service]
trait Clock {
    async fn now(&self) -> u64;
}

struct Wall;

impl Clock for Wall {
    async fn now(&self) -> u64 {
        let time = Rc::new(7);
        std::future::ready(()).await;
        *time
    }
}

fn main() {}
