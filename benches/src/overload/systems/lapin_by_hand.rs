//! Hand-written RPC with lapin: a request expires at its deadline, and a worker runs as many
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

use super::{Call, IMPORTANT, Running, wrong_time};
use crate::overload::method::{Method, payload};
use crate::overload::plan::Setting;
use crate::overload::record::End;

const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The method's name, for workers with this library.
const METHOD: &str = "work";

struct LapinByHand {
    callers: Vec<Caller>,
    workers: Vec<Link>,
}

pub(super) async fn start(
    broker: &str,
    setting: &Setting,
    method: &Method,
) -> anyhow::Result<Arc<dyn Running>> {
    let queue = unique("by-hand");
    let workers = (0..setting.workers).map(|_| worker(broker, &queue, setting, method));
    let workers = try_join_all(workers).await?;
    let callers = (0..setting.callers).map(|_| Caller::connect(broker, &queue, false));
    let callers = try_join_all(callers).await?;
    Ok(Arc::new(LapinByHand { callers, workers }))
}

#[async_trait]
impl Running for LapinByHand {
    fn call(&self, call: Call) -> BoxFuture<'static, End> {
        self.callers[call.caller].call(call)
    }

    async fn stop(&self) -> anyhow::Result<()> {
        join_all(self.callers.iter().map(Caller::close)).await;
        join_all(self.workers.iter().map(Link::close)).await;
        Ok(())
    }
}

/// A connection to consume and one to publish, in this order, with a channel each.
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

    async fn close(&self) {
        for connection in &self.connections {
            // If that fails or takes too long, lapin closes the connection when it is dropped.
            let _ = timeout(CLOSE_LIMIT, connection.close(200, "done".into())).await;
        }
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
    // The task ends with its connection.
    tokio::spawn(async move {
        while let Some(Ok(request)) = consumer.next().await {
            let (requests, replies, method) = (requests.clone(), replies.clone(), method.clone());
            tokio::spawn(async move { serve(request, &requests, &replies, &method).await });
        }
    });
    Ok(link)
}

/// Runs the method, replies and acknowledges. A request that cannot be answered stays
/// unacknowledged until the channel closes.
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

/// A caller with its own connections. It can also call workers with this library.
pub(super) struct Caller {
    link: Link,
    state: Arc<CallerState>,
}

struct CallerState {
    requests: Channel,
    queue: ShortString,
    reply_to: ShortString,
    /// Whether requests have the `timestamp` of a wrong clock. Otherwise they have none.
    has_wrong_clock: bool,
    /// By correlation id.
    in_flight: Mutex<HashMap<u64, oneshot::Sender<End>>>,
    next_id: AtomicU64,
}

impl Caller {
    /// Connects a caller whose requests have the `timestamp` of a wrong clock.
    pub(super) async fn connect_with_wrong_clock(broker: &str, queue: &str) -> anyhow::Result<Self> {
        Self::connect(broker, queue, true).await
    }

    async fn connect(broker: &str, queue: &str, has_wrong_clock: bool) -> anyhow::Result<Self> {
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
        let state = Arc::new(CallerState {
            requests: requests.clone(),
            queue: queue.into(),
            reply_to,
            has_wrong_clock,
            in_flight: Mutex::default(),
            next_id: AtomicU64::new(0),
        });
        let routing = Arc::clone(&state);
        // The task ends with its connection.
        tokio::spawn(async move {
            while let Some(Ok(reply)) = consumer.next().await {
                routing.route(&reply);
            }
        });
        Ok(Self { link, state })
    }

    pub(super) fn call(&self, call: Call) -> BoxFuture<'static, End> {
        let state = Arc::clone(&self.state);
        Box::pin(async move { state.call(call).await })
    }

    pub(super) async fn close(&self) {
        self.link.close().await;
    }
}

impl CallerState {
    fn in_flight(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<End>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a reply to its call, if that still waits.
    fn route(&self, reply: &Delivery) {
        let id = reply.properties.correlation_id();
        let id = id.as_ref().and_then(|id| id.as_str().parse().ok());
        if let Some(call) = id.and_then(|id| self.in_flight().remove(&id)) {
            let _ = call.send(end(reply));
        }
    }

    async fn call(&self, call: Call) -> End {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        self.in_flight().insert(id, sender);
        let time_left = call.time_left();
        let calling = async {
            self.publish(id, call, time_left).await?;
            anyhow::Ok(reply.await?)
        };
        let called = timeout(time_left, calling).await;
        self.in_flight().remove(&id);
        match called {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => End::Failed(error.to_string()),
            Err(_) => End::TimedOut,
        }
    }

    /// Publishes a request that expires when no time is left.
    async fn publish(&self, id: u64, call: Call, time_left: Duration) -> anyhow::Result<()> {
        let mut properties = BasicProperties::default()
            .with_type(METHOD.into())
            .with_correlation_id(id.to_string().into())
            .with_reply_to(self.reply_to.clone())
            .with_expiration(time_left.as_millis().to_string().into())
            .with_priority(call.priority());
        if self.has_wrong_clock {
            properties = properties.with_timestamp(wrong_time().as_secs());
        }
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

/// Returns how a reply ends its call. The fault of a worker with this library is `code: message`.
/// Two codes mean that the worker refused the request to save its time.
fn end(reply: &Delivery) -> End {
    let kind = reply.properties.kind();
    if kind.as_ref().is_none_or(|kind| kind.as_str() != "fault") {
        return End::Answered;
    }
    let text = String::from_utf8_lossy(&reply.data);
    match text.split(':').next() {
        Some(code @ ("expired" | "rejected")) => End::Refused(code.to_owned()),
        _ => End::Failed(text.into_owned()),
    }
}
