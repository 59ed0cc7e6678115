//! RPC written by hand with lapin: a request expires at its deadline, and a worker takes as many
//! requests at once as it has places.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all, try_join_all};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use rpc_tests::rabbit::unique;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Call, IMPORTANT, Running};
use crate::overload::method::{Method, payload};
use crate::overload::plan::Setting;
use crate::overload::record::End;

const CLOSE_LIMIT: Duration = Duration::from_secs(2);

struct LapinByHand {
    callers: Vec<Arc<Caller>>,
    /// Held until the end: a connection closes with its last channel.
    _channels: Vec<Channel>,
    connections: Vec<Connection>,
}

pub(super) async fn start(
    broker: &str,
    setting: &Setting,
    method: &Method,
) -> anyhow::Result<Arc<dyn Running>> {
    let queue = unique("by-hand");
    let workers = (0..setting.workers).map(|_| worker(broker, &queue, setting, method));
    let workers = try_join_all(workers).await?;
    let callers = (0..setting.callers).map(|_| caller(broker, &queue));
    let callers = try_join_all(callers).await?;

    let (callers, links): (Vec<_>, Vec<_>) = callers.into_iter().unzip();
    let links = links.into_iter().chain(workers);
    let (connections, channels): (Vec<_>, Vec<_>) =
        links.map(|link| (link.connections, link.channels)).unzip();
    Ok(Arc::new(LapinByHand {
        callers,
        connections: connections.into_iter().flatten().collect(),
        _channels: channels.into_iter().flatten().collect(),
    }))
}

/// A connection to consume and one to publish, with a channel each.
struct Link {
    connections: [Connection; 2],
    channels: [Channel; 2],
}

impl Link {
    async fn open(broker: &str) -> anyhow::Result<Self> {
        let connect = || Connection::connect(broker, ConnectionProperties::default());
        let connections = [connect().await?, connect().await?];
        let channels = [
            connections[0].create_channel().await?,
            connections[1].create_channel().await?,
        ];
        Ok(Self {
            connections,
            channels,
        })
    }
}

async fn consume(channel: &Channel, queue: ShortString, no_ack: bool) -> anyhow::Result<Consumer> {
    let options = BasicConsumeOptions {
        no_ack,
        ..Default::default()
    };
    Ok(channel
        .basic_consume(queue, "".into(), options, FieldTable::default())
        .await?)
}

async fn worker(broker: &str, queue: &str, setting: &Setting, method: &Method) -> anyhow::Result<Link> {
    let link = Link::open(broker).await?;
    let [requests, replies] = link.channels.clone();
    let options = QueueDeclareOptions {
        durable: true,
        auto_delete: true,
        ..Default::default()
    };
    let mut arguments = FieldTable::default();
    if setting.important {
        arguments.insert("x-max-priority".into(), AMQPValue::LongInt(IMPORTANT.into()));
    }
    requests.queue_declare(queue.into(), options, arguments).await?;
    requests
        .basic_qos(setting.places, BasicQosOptions::default())
        .await?;
    let mut consumer = consume(&requests, queue.into(), false).await?;
    let method = method.clone();
    // It ends with its connection.
    tokio::spawn(async move {
        while let Some(Ok(request)) = consumer.next().await {
            let (requests, replies, method) = (requests.clone(), replies.clone(), method.clone());
            tokio::spawn(async move { serve(request, &requests, &replies, &method).await });
        }
    });
    Ok(link)
}

/// Runs the method, replies and acknowledges. A request without an answer comes again when the channel closes.
async fn serve(
    request: Delivery,
    requests: &Channel,
    replies: &Channel,
    method: &Method,
) -> anyhow::Result<()> {
    method.run(&request.data).await;
    let reply_to = request.properties.reply_to().clone().context("no reply_to")?;
    let id = request
        .properties
        .correlation_id()
        .clone()
        .context("no correlation_id")?;
    let properties = BasicProperties::default().with_correlation_id(id);
    let options = BasicPublishOptions::default();
    replies
        .basic_publish("".into(), reply_to, options, &request.data, properties)
        .await?;
    requests
        .basic_ack(request.delivery_tag, BasicAckOptions::default())
        .await?;
    Ok(())
}

struct Caller {
    requests: Channel,
    queue: ShortString,
    reply_to: ShortString,
    pending: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    next_id: AtomicU64,
}

async fn caller(broker: &str, queue: &str) -> anyhow::Result<(Arc<Caller>, Link)> {
    let link = Link::open(broker).await?;
    let [replies, requests] = &link.channels;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    let reply_to = replies
        .queue_declare("".into(), options, FieldTable::default())
        .await?
        .name()
        .clone();
    let mut consumer = consume(replies, reply_to.clone(), true).await?;
    let caller = Arc::new(Caller {
        requests: requests.clone(),
        queue: queue.into(),
        reply_to,
        pending: Mutex::default(),
        next_id: AtomicU64::new(0),
    });
    let routing = Arc::clone(&caller);
    // It ends with its connection.
    tokio::spawn(async move {
        while let Some(Ok(reply)) = consumer.next().await {
            routing.route(&reply);
        }
    });
    Ok((caller, link))
}

impl Caller {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a reply to its call, if that still waits.
    fn route(&self, reply: &Delivery) {
        let id = reply.properties.correlation_id();
        let id = id.as_ref().and_then(|id| id.as_str().parse().ok());
        if let Some(call) = id.and_then(|id| self.pending().remove(&id)) {
            let _ = call.send(());
        }
    }

    async fn call(&self, call: Call) -> End {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        self.pending().insert(id, sender);
        let time = call.time();
        let calling = async {
            self.publish(id, call, time).await?;
            anyhow::Ok(reply.await?)
        };
        let called = timeout(time, calling).await;
        self.pending().remove(&id);
        match called {
            Ok(Ok(())) => End::Answered,
            Ok(Err(error)) => End::Failed(error.to_string()),
            Err(_) => End::TimedOut,
        }
    }

    async fn publish(&self, id: u64, call: Call, time: Duration) -> anyhow::Result<()> {
        let properties = BasicProperties::default()
            .with_correlation_id(id.to_string().into())
            .with_reply_to(self.reply_to.clone())
            .with_expiration(time.as_millis().to_string().into())
            .with_priority(call.priority());
        self.requests
            .basic_publish(
                "".into(),
                self.queue.clone(),
                BasicPublishOptions::default(),
                &payload(call.deadline),
                properties,
            )
            .await?;
        Ok(())
    }
}

#[async_trait]
impl Running for LapinByHand {
    fn call(&self, call: Call) -> BoxFuture<'static, End> {
        let caller = Arc::clone(&self.callers[call.caller]);
        Box::pin(async move { caller.call(call).await })
    }

    async fn stop(&self) -> anyhow::Result<()> {
        let closing = self.connections.iter().map(|connection| {
            // What a close does not achieve, the drop at the end does.
            timeout(CLOSE_LIMIT, connection.close(200, "done".into()))
        });
        join_all(closing).await;
        Ok(())
    }
}
