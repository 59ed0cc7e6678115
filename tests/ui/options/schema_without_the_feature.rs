//! JSON Schemas, without the cargo feature that brings them.
use rpc_runtime::service;

#[derive(serde::Serialize, serde::Deserialize)]
struct Point;

#[service(queue = "drawing", schema)]
trait Drawing {
    async fn draw(&self, point: Point) -> Point;
}

fn main() {}
