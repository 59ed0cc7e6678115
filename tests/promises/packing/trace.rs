//! Who published how many messages to which queue: by the broker's own trace of a virtual host.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use lapin::options::QueueBindOptions;
use rpc_tests::gate::SOON;
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::private::Vhost;

/// Counts what is published in a virtual host from its making on.
pub(super) struct Trace {
    peer: RawPeer,
    published: Arc<Mutex<HashMap<String, usize>>>,
    _task: AbortOnDropHandle<()>,
}

impl Trace {
    pub(super) async fn of(vhost: &Vhost) -> Self {
        vhost.trace().await;
        let peer = RawPeer::connect(&vhost.url()).await.unwrap();
        let queue = peer.declare_exclusive().await.unwrap();
        let bound = peer.channel().queue_bind(
            queue.as_str().into(),
            "amq.rabbitmq.trace".into(),
            "publish.#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.unwrap();
        let mut traced = peer.consume(&queue).await.unwrap();
        let published = Arc::new(Mutex::new(HashMap::new()));
        let counts = Arc::clone(&published);
        let count = async move {
            while let Some(Ok(delivery)) = traced.next().await {
                *counts.lock().unwrap().entry(routing_key(&delivery)).or_default() += 1;
            }
        };
        Self {
            peer,
            published,
            _task: AbortOnDropHandle::new(tokio::spawn(count)),
        }
    }

    /// A peer in the virtual host.
    pub(super) fn peer(&self) -> &RawPeer {
        &self.peer
    }

    /// How many messages were published to the queue, all that have an effect so far among them.
    pub(super) async fn published(&self, queue: &str) -> usize {
        // What is published now is traced behind those.
        let marker = self.peer.declare_exclusive().await.unwrap();
        let published = self.peer.publish(&marker, BasicProperties::default(), b"");
        published.await.unwrap();
        until("the trace is complete", SOON, async || {
            Ok(self.published.lock().unwrap().contains_key(&marker))
        })
        .await
        .unwrap();
        self.published.lock().unwrap().get(queue).copied().unwrap_or(0)
    }
}

fn routing_key(traced: &Delivery) -> String {
    let headers = traced.properties.headers().as_ref().expect("a trace");
    match headers.inner().get("routing_keys") {
        Some(AMQPValue::FieldArray(keys)) => match keys.as_slice() {
            [AMQPValue::LongString(key)] => key.to_string(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}
