//! This library: every caller and every worker has its own broker handle, as in separate programs.
//! Foreign callers are written with lapin.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::future::{BoxFuture, join_all, try_join_all};
use rpc_runtime::{Broker, CallError, Executed, RequestQueue, RunningServer, Server, service};
use rpc_tests::rabbit::unique;

use super::{Call, IMPORTANT, Running, lapin_by_hand, wrong_time};
use crate::overload::method::{Method, payload};
use crate::overload::plan::Setting;
use crate::overload::record::End;

/// The drain timeout at the end.
const DRAIN_TIME: Duration = Duration::from_secs(5);

#[service]
pub(crate) trait Work {
    async fn work(&self, payload: &[u8]) -> Vec<u8>;
}

impl Work for Method {
    async fn work(&self, payload: &[u8]) -> Vec<u8> {
        self.run(payload).await;
        payload.to_vec()
    }
}

struct Library {
    callers: Vec<Caller>,
    has_wrong_clocks: bool,
    workers: Mutex<Vec<(Broker, RunningServer)>>,
}

enum Caller {
    /// With this library.
    Own(Broker, WorkClient),
    Foreign(Box<lapin_by_hand::Caller>),
}

pub(super) async fn start(
    broker: &str,
    setting: &Setting,
    method: &Method,
) -> anyhow::Result<Arc<dyn Running>> {
    let queue = unique("overload");
    let workers = (0..setting.workers).map(|_| worker(broker, &queue, setting, method));
    let workers = try_join_all(workers).await?;
    let callers = (0..setting.callers).map(|index| caller(broker, &queue, setting, index));
    let callers = try_join_all(callers).await?;
    Ok(Arc::new(Library {
        callers,
        has_wrong_clocks: setting.wrong_clocks,
        workers: Mutex::new(workers),
    }))
}

async fn worker(
    broker: &str,
    queue: &str,
    setting: &Setting,
    method: &Method,
) -> anyhow::Result<(Broker, RunningServer)> {
    let broker = Broker::connect(broker).await?;
    // RabbitMQ deletes it when it has had no consumer for ten seconds.
    let queue = RequestQueue::new(queue).argument("x-expires", 10_000);
    let queue = match setting.important {
        true => queue.priorities(IMPORTANT),
        false => queue,
    };
    let server = Server::new(&broker)
        .concurrency(setting.places)
        .batching(setting.batching)
        .admission(setting.admission)
        .drain_timeout(DRAIN_TIME)
        .serve_on(queue, WorkServer::new(method.clone()))
        .start()
        .await?;
    Ok((broker, server))
}

async fn caller(broker: &str, queue: &str, setting: &Setting, index: usize) -> anyhow::Result<Caller> {
    if setting.foreign && is_second(index) {
        let caller = lapin_by_hand::Caller::connect_with_wrong_clock(broker, queue).await?;
        return Ok(Caller::Foreign(Box::new(caller)));
    }
    let broker = Broker::connect(broker).await?;
    let client = WorkClient::builder(&broker)
        .queue(queue)
        .batching(setting.batching)
        .adaptive_limit(setting.adaptive)
        .build();
    Ok(Caller::Own(broker, client))
}

/// Returns whether the caller with this index is the second, the fourth, and so on.
fn is_second(index: usize) -> bool {
    index % 2 == 1
}

#[async_trait]
impl Running for Library {
    fn call(&self, call: Call) -> BoxFuture<'static, End> {
        let client = match &self.callers[call.caller] {
            Caller::Own(_, client) => client,
            Caller::Foreign(caller) => return caller.call(call),
        };
        let mut work = client.work(&payload(call.deadline)).timeout(call.time_left());
        if call.is_important {
            work = work.priority(IMPORTANT);
        }
        // The library sends no time. RabbitMQ's interceptor would add one in this header.
        if self.has_wrong_clocks && is_second(call.caller) {
            work = work.header("timestamp_in_ms", wrong_time().as_millis().to_string());
        }
        Box::pin(async move {
            match work.await {
                Ok(_) => End::Answered,
                Err(error) => end(&error),
            }
        })
    }

    async fn stop(&self) -> anyhow::Result<()> {
        // The callers first, because their calls lose their worker next.
        join_all(self.callers.iter().map(Caller::close)).await;
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for (broker, server) in workers {
            server.stop().await.context("the worker did not drain")?;
            broker.close().await;
        }
        Ok(())
    }
}

impl Caller {
    async fn close(&self) {
        match self {
            Self::Own(broker, _) => broker.close().await,
            Self::Foreign(caller) => caller.close().await,
        }
    }
}

fn end(error: &CallError) -> End {
    let why = match error {
        CallError::TimedOut {
            executed: Executed::No,
            ..
        } => "not sent in time".to_owned(),
        CallError::TimedOut { .. } => return End::TimedOut,
        CallError::Fault(fault) => fault.code.as_str().to_owned(),
        CallError::Overloaded { .. } => "no place in time".to_owned(),
        CallError::TooManyCalls { .. } => "too many calls".to_owned(),
        other => other.to_string(),
    };
    match error.executed() {
        Executed::No => End::Refused(why),
        Executed::Maybe | Executed::Yes => End::Failed(why),
    }
}
