//! An argument that may not move to another thread.
use std::marker::PhantomData;
use std::rc::Rc;

use rpc_runtime::service;

#[derive(serde::Serialize, serde::Deserialize)]
struct Point(PhantomData<Rc<u8>>);

#[service]
trait Drawing {
    async fn draw(&self, name: &str, point: Point);
}

fn main() {}
