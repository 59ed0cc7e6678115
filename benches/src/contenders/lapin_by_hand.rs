//! Hand-written RPC with lapin, in the form that proved fastest: one connection to publish and one
//! to consume on each side, an exclusive reply queue without acknowledgements, and as many
//! concurrent publishes as calls, so that few writes carry their frames. On request, the same with
//! the guarantees of this library.

use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, PublisherConfirm};
use rpc_tests::rabbit::unique;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Running, Sides, Stop};
use crate::load::{Caller, Load};
use crate::measure::Measured;
use crate::scenario::{self, Scenario};

/// How long a call waits for its reply.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// How many replies may be unacknowledged.
const REPLY_PREFETCH: u16 = 2000;

const CLOSE_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct LapinByHand {
    /// With the guarantees of this library: confirms, `mandatory` requests that expire, a reply
    /// queue that outlives the connection, acknowledged replies, and requests that are acknowledged
    /// only after their reply is confirmed.
    pub(super) guarantees: bool,
}

/// The connections of one side: one to consume and one to publish for the caller or each worker.
struct Open {
    connections: Vec<Connection>,
    /// Kept until their connections are closed. lapin closes a dropped channel in the background;
    /// if its connection is closed at the same time, neither close may finish.
    channels: Vec<Channel>,
    tasks: Vec<JoinHandle<()>>,
}

impl Open {
    async fn close(self) {
        for connection in self.connections {
            // If a close fails or takes too long, the drop that follows closes the connection.
            let _ = timeout(CLOSE_LIMIT, connection.close(200, "done".into())).await;
        }
        drop(self.channels);
        for task in self.tasks {
            task.abort();
        }
    }
}

struct RunningCaller {
    caller: LapinCaller,
    open: Open,
}

struct RunningWorkers(Open);

#[async_trait]
impl Sides for LapinByHand {
    async fn start_workers(
        &self,
        broker: &str,
        queue: &str,
        scenario: &Scenario,
    ) -> anyhow::Result<Box<dyn Stop>> {
        let (mut connections, mut channels, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..scenario.workers {
            let [consuming, publishing] = connect(broker).await?;
            let worker = Worker {
                requests: consuming.create_channel().await?,
                replies: self.publisher(&publishing).await?,
                guarantees: self.guarantees,
                handler: scenario.handler,
            };
            channels.extend([worker.requests.clone(), worker.replies.channel.clone()]);
            tasks.push(worker.start(queue, scenario.prefetch()).await?);
            connections.extend([consuming, publishing]);
        }
        Ok(Box::new(RunningWorkers(Open {
            connections,
            channels,
            tasks,
        })))
    }

    async fn start_caller(
        &self,
        broker: &str,
        queue: &str,
        _scenario: &Scenario,
    ) -> anyhow::Result<Box<dyn Running>> {
        let [consuming, publishing] = connect(broker).await?;
        let replies = consuming.create_channel().await?;
        let caller = LapinCaller(Arc::new(CallerState {
            requests: self.publisher(&publishing).await?,
            guarantees: self.guarantees,
            queue: queue.into(),
            reply_to: declare_replies(&replies, self.guarantees).await?,
            pending: Mutex::default(),
            next_id: AtomicU64::new(0),
        }));
        let consumer = consume(&replies, caller.0.reply_to.clone(), !self.guarantees).await?;
        let routing = tokio::spawn(route(consumer, replies.clone(), caller.clone()));
        let open = Open {
            connections: vec![consuming, publishing],
            channels: vec![replies, caller.0.requests.channel.clone()],
            tasks: vec![routing],
        };
        Ok(Box::new(RunningCaller { caller, open }))
    }
}

impl LapinByHand {
    async fn publisher(&self, connection: &Connection) -> anyhow::Result<Publisher> {
        let channel = connection.create_channel().await?;
        if self.guarantees {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
        }
        Ok(Publisher {
            channel,
            order: Mutex::default(),
            guarantees: self.guarantees,
        })
    }
}

/// Publishes through one channel, from any task.
struct Publisher {
    channel: Channel,
    /// Makes publishes with confirms take turns.
    order: Mutex<()>,
    guarantees: bool,
}

impl Publisher {
    async fn publish(
        &self,
        queue: ShortString,
        mandatory: bool,
        body: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<PublisherConfirm> {
        let options = BasicPublishOptions {
            mandatory,
            ..Default::default()
        };
        let publishing = self
            .channel
            .basic_publish("".into(), queue, options, body, properties);
        if !self.guarantees {
            return publishing.await;
        }
        // On the first poll, lapin takes the number of the confirm under one lock, and the place of
        // the frames under another. Between them, another task could take a later number and an
        // earlier place, and each message would get the other's confirm.
        let mut publishing = pin!(publishing);
        poll_fn(|context| {
            let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            publishing.as_mut().poll(context)
        })
        .await
    }
}

async fn connect(broker: &str) -> anyhow::Result<[Connection; 2]> {
    let connect = || Connection::connect(broker, ConnectionProperties::default());
    Ok([connect().await?, connect().await?])
}

/// Declares the reply queue and returns its name. With guarantees, the queue outlives the
/// connection by a minute, and the prefetch of the channel is set.
async fn declare_replies(channel: &Channel, guarantees: bool) -> anyhow::Result<ShortString> {
    let (name, options, mut arguments) = (
        match guarantees {
            true => unique("rpc.reply."),
            false => String::new(),
        },
        QueueDeclareOptions {
            exclusive: !guarantees,
            durable: guarantees,
            ..Default::default()
        },
        FieldTable::default(),
    );
    if guarantees {
        arguments.insert("x-expires".into(), AMQPValue::LongInt(60_000));
        channel
            .basic_qos(REPLY_PREFETCH, BasicQosOptions::default())
            .await?;
    }
    let queue = channel.queue_declare(name.into(), options, arguments).await?;
    Ok(queue.name().clone())
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

#[derive(Clone)]
struct LapinCaller(Arc<CallerState>);

struct CallerState {
    requests: Publisher,
    guarantees: bool,
    queue: ShortString,
    reply_to: ShortString,
    pending: Mutex<HashMap<u64, oneshot::Sender<Delivery>>>,
    next_id: AtomicU64,
}

impl Caller for LapinCaller {
    async fn call(&self, payload: Bytes) -> anyhow::Result<usize> {
        let state = &*self.0;
        let id = state.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        state.pending().insert(id, sender);
        let calling = async {
            let (queue, properties) = (state.queue.clone(), state.properties(id));
            let requests = &state.requests;
            let confirming = requests
                .publish(queue, state.guarantees, &payload, properties)
                .await?;
            if !state.guarantees {
                return Ok(reply.await?.data.len());
            }
            let mut reply = reply;
            tokio::select! {
                biased;
                // A reply is as good as a confirm.
                reply = &mut reply => return Ok(reply?.data.len()),
                confirmation = confirming => {
                    let confirmation = confirmation?;
                    ensure!(confirmation.is_ack(), "the broker refused a request");
                    // It may be the request of another call: lapin reports a returned request with
                    // the next confirm. Without its sender, that call fails.
                    if let Some(returned) = confirmation.take_message() {
                        state.end(&returned.delivery);
                    }
                }
            }
            Ok(reply.await.context("nobody serves the queue")?.data.len())
        };
        let called = timeout(CALL_LIMIT, calling).await;
        if !matches!(called, Ok(Ok(_))) {
            state.pending().remove(&id);
        }
        called.with_context(|| format!("no reply within {CALL_LIMIT:?}"))?
    }
}

impl CallerState {
    fn properties(&self, id: u64) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_reply_to(self.reply_to.clone())
            .with_correlation_id(id.to_string().into());
        match self.guarantees {
            // No worker should run a request that no caller waits for.
            true => properties.with_expiration(CALL_LIMIT.as_millis().to_string().into()),
            false => properties,
        }
    }

    fn complete(&self, reply: Delivery) {
        if let Some(call) = self.end(&reply) {
            let _ = call.send(reply);
        }
    }

    /// Removes the call whose id the message has. `None` if no such call waits.
    fn end(&self, message: &Delivery) -> Option<oneshot::Sender<Delivery>> {
        let id = message.properties.correlation_id().as_ref()?;
        let id: u64 = id.as_str().parse().ok()?;
        self.pending().remove(&id)
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Delivery>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes replies to the waiting calls. With guarantees, acknowledges those that arrived together
/// with one ack.
async fn route(mut replies: Consumer, channel: Channel, caller: LapinCaller) {
    while let Some(Ok(first)) = replies.next().await {
        let mut last = first.delivery_tag;
        caller.0.complete(first);
        while let Some(Some(Ok(next))) = replies.next().now_or_never() {
            last = next.delivery_tag;
            caller.0.complete(next);
        }
        if caller.0.guarantees
            && channel
                .basic_ack(last, BasicAckOptions { multiple: true })
                .await
                .is_err()
        {
            return;
        }
    }
}

struct Worker {
    requests: Channel,
    replies: Publisher,
    guarantees: bool,
    handler: Duration,
}

impl Worker {
    /// Declares the queue and begins to consume it. Returns the task that takes the requests.
    async fn start(self, queue: &str, prefetch: u16) -> anyhow::Result<JoinHandle<()>> {
        let options = QueueDeclareOptions {
            durable: true,
            auto_delete: true,
            ..Default::default()
        };
        self.requests
            .queue_declare(queue.into(), options, FieldTable::default())
            .await?;
        self.requests
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let mut consumer = consume(&self.requests, queue.into(), false).await?;
        let worker = Arc::new(self);
        Ok(tokio::spawn(async move {
            while let Some(Ok(request)) = consumer.next().await {
                let worker = Arc::clone(&worker);
                // One task each, so that handlers and the publishes of replies run concurrently.
                tokio::spawn(async move { worker.serve(request).await });
            }
        }))
    }

    /// Runs the handler, replies, and acknowledges the request. A request without a reply stays
    /// unacknowledged until the channel closes.
    async fn serve(&self, request: Delivery) -> anyhow::Result<()> {
        scenario::handle(self.handler).await;
        let properties = request.properties;
        let reply_to = properties.reply_to().clone().context("it has no reply_to")?;
        let id = properties
            .correlation_id()
            .clone()
            .context("it has no correlation_id")?;
        let properties = BasicProperties::default().with_correlation_id(id);
        let confirming = self
            .replies
            .publish(reply_to, false, &request.data, properties)
            .await?;
        if self.guarantees {
            ensure!(confirming.await?.is_ack(), "the broker refused a reply");
        }
        // Not `request.ack()`, which starts a task of its own.
        self.requests
            .basic_ack(request.delivery_tag, BasicAckOptions::default())
            .await?;
        Ok(())
    }
}

#[async_trait]
impl Running for RunningCaller {
    async fn run(&self, load: &Load) -> anyhow::Result<Measured> {
        load.run(&self.caller).await
    }
}

#[async_trait]
impl Stop for RunningCaller {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.open.close().await;
        Ok(())
    }
}

#[async_trait]
impl Stop for RunningWorkers {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.0.close().await;
        Ok(())
    }
}
