//! Counts the messages that are published to each queue, by their routing keys, with the broker's
//! own trace of a virtual host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::bail;
use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::QueueBindOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio_util::task::AbortOnDropHandle;

use crate::gate::SOON;
use crate::raw::RawPeer;
use crate::until;

/// Counts what is published in a virtual host once [`Trace::of`] has returned.
#[derive(Debug)]
pub struct Trace {
    peer: RawPeer,
    /// The number of messages by routing key.
    published: Arc<Mutex<HashMap<String, usize>>>,
    _task: AbortOnDropHandle<()>,
}

impl Trace {
    /// Starts to count in the virtual host of this URL, which must be traced: see `rabbitmqctl
    /// trace_on`.
    pub async fn of(url: &str) -> anyhow::Result<Self> {
        let peer = RawPeer::connect(url).await?;
        let queue = peer.declare_exclusive().await?;
        let bound = peer.channel().queue_bind(
            queue.as_str().into(),
            "amq.rabbitmq.trace".into(),
            "publish.#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await?;
        let mut traced = peer.consume(&queue).await?;
        let published = Arc::new(Mutex::new(HashMap::new()));
        let counts = Arc::clone(&published);
        let count = async move {
            // The task ends when the connection is lost. The count is then incomplete.
            while let Some(Ok(delivery)) = traced.next().await {
                let key = routing_key(&delivery).expect("a trace");
                *counts.lock().unwrap().entry(key).or_default() += 1;
            }
        };
        Ok(Self {
            peer,
            published,
            _task: AbortOnDropHandle::new(tokio::spawn(count)),
        })
    }

    /// Returns a peer in the virtual host.
    pub fn peer(&self) -> &RawPeer {
        &self.peer
    }

    /// Returns how many messages were published to the queue so far: at least those that the broker
    /// took before this was called.
    pub async fn published(&self, queue: &str) -> anyhow::Result<usize> {
        // A marker that is published now is traced after these messages.
        let marker = self.peer.declare_exclusive().await?;
        let properties = BasicProperties::default();
        self.peer.publish(&marker, properties, b"").await?;
        until("the trace is complete", SOON, async || {
            Ok(self.published.lock().unwrap().contains_key(&marker))
        })
        .await?;
        Ok(self.published.lock().unwrap().get(queue).copied().unwrap_or(0))
    }
}

/// Returns the only routing key of the message that a trace is about.
fn routing_key(traced: &Delivery) -> anyhow::Result<String> {
    let headers = traced.properties.headers().clone().unwrap_or_default();
    match headers.inner().get("routing_keys") {
        Some(AMQPValue::FieldArray(keys)) => match keys.as_slice() {
            [AMQPValue::LongString(key)] => Ok(key.to_string()),
            other => bail!("not one routing key: {other:?}"),
        },
        other => bail!("no routing keys: {other:?}"),
    }
}
