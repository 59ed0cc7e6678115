//! Streams that a call cannot send.
use std::rc::Rc;

use futures_util::{StreamExt, stream};
use rpc_runtime::{Incoming, service};

#[service]
trait Store {
    async fn upload(&self, name: &str, parts: Incoming<Vec<u8>>) -> u64;
}

async fn call(store: StoreClient, texts: Vec<String>) {
    let _ = store.upload("a", stream::iter(texts.clone())).await;
    let _ = store.upload("a", vec![1]).await;
    let rc = Rc::new(1);
    let _ = store.upload("a", stream::iter([1]).map(move |_| vec![*rc])).await;
    let _ = store.upload("a", stream::iter(&texts).map(|text| text.clone().into_bytes())).await;
}

fn main() {}
