//! Plain sockets: pre-encoded requests and replies, one thread for the caller and each worker, and
//! no handler. This is the broker's limit with one message for each call.

mod frames;
mod socket;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use rpc_tests::rabbit::unique;
use tokio::task::{JoinHandle, spawn_blocking};

use self::frames::{Scanner, ack_up_to, message};
use self::socket::Socket;
use super::{Contender, Running, Stop};
use crate::load::Load;
use crate::measure::{Measured, Recorder};
use crate::scenario::Scenario;

/// The greatest size of a write.
const BATCH_BYTES: usize = 256 * 1024;

pub(super) struct RawSockets;

struct RunningSockets {
    broker: String,
    request: Arc<Repeated>,
    replies: String,
    stop: Arc<AtomicBool>,
    consuming: std::sync::Mutex<Option<Socket>>,
    workers: Vec<JoinHandle<anyhow::Result<()>>>,
}

/// A message, repeated as often as it fits into one write.
struct Repeated {
    one: usize,
    many: Vec<u8>,
}

impl Repeated {
    fn new(one: &[u8]) -> Self {
        Self {
            one: one.len(),
            many: one.repeat((BATCH_BYTES / one.len()).max(1)),
        }
    }

    fn write(&self, socket: &mut Socket, mut times: usize) -> anyhow::Result<()> {
        while times > 0 {
            let now = times.min(self.many.len() / self.one);
            socket.write(&self.many[..now * self.one])?;
            times -= now;
        }
        Ok(())
    }
}

#[async_trait]
impl Contender for RawSockets {
    async fn start(&self, broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>> {
        let (broker, scenario) = (broker.to_owned(), *scenario);
        let running = spawn_blocking(move || open(broker, &scenario)).await??;
        Ok(Box::new(running))
    }
}

fn open(broker: String, scenario: &Scenario) -> anyhow::Result<RunningSockets> {
    let payload = vec![b'x'; scenario.payload];
    let queue = unique("raw");
    let mut consuming = Socket::connect(&broker)?;
    let replies = consuming.declare("", socket::Lifetime::Exclusive)?;
    consuming.consume(&replies, socket::Acknowledge::Never)?;

    let stop = Arc::new(AtomicBool::new(false));
    let reply = message(&replies, None, &payload, consuming.frame_max());
    let reply = Arc::new(Repeated::new(&reply));
    let mut workers = Vec::new();
    for _ in 0..scenario.workers {
        let mut requests = Socket::connect(&broker)?;
        requests.declare(&queue, socket::Lifetime::WithItsConsumers)?;
        requests.consume(&queue, socket::Acknowledge::Each)?;
        let replies = Socket::connect(&broker)?;
        let (reply, stop) = (Arc::clone(&reply), Arc::clone(&stop));
        workers.push(spawn_blocking(move || work(requests, replies, &reply, &stop)));
    }
    let request = message(&queue, Some(&replies), &payload, consuming.frame_max());
    Ok(RunningSockets {
        broker,
        request: Arc::new(Repeated::new(&request)),
        replies,
        stop,
        consuming: std::sync::Mutex::new(Some(consuming)),
        workers,
    })
}

/// Replies to all requests that have arrived, then acknowledges them.
fn work(
    mut requests: Socket,
    mut replies: Socket,
    reply: &Repeated,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut scanner = Scanner::default();
    let mut tag = 0;
    while !stop.load(Ordering::Relaxed) {
        requests.read(&mut scanner)?;
        let arrived = scanner.complete_messages()?;
        if arrived > 0 {
            reply.write(&mut replies, arrived)?;
            tag += u64::try_from(arrived)?;
            requests.write(&ack_up_to(tag))?;
        }
    }
    Ok(())
}

/// Keeps the window full. Each reply is matched with the oldest request. With one worker this is
/// exact; with several, the mean is still correct.
fn call(
    mut requests: Socket,
    mut replies: Socket,
    request: &Repeated,
    in_flight: usize,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let mut scanner = Scanner::default();
    let mut sent: VecDeque<Instant> = VecDeque::with_capacity(in_flight);
    let mut missing = in_flight;
    let mut fresh = in_flight;
    while !recorder.is_over() {
        if missing > 0 {
            sent.extend(std::iter::repeat_n(Instant::now(), missing));
            request.write(&mut requests, missing)?;
        }
        replies.read(&mut scanner)?;
        missing = scanner.complete_messages()?;
        let now = Instant::now();
        for _ in 0..missing {
            let begun = sent.pop_front().context("a reply without a request")?;
            recorder.record(0, now - begun);
        }
        let first = missing.min(fresh);
        fresh -= first;
        recorder.warmed_up(first);
    }
    Ok(())
}

#[async_trait]
impl Running for RunningSockets {
    async fn run(&self, load: &Load) -> anyhow::Result<Measured> {
        let in_flight = load.scenario.in_flight;
        let recorder = Recorder::new();
        let replies = self.consuming.lock().ok().and_then(|mut it| it.take());
        let replies = replies.context("raw sockets run once")?;
        ensure!(!self.replies.is_empty(), "the broker named no reply queue");
        let calling = spawn_blocking({
            let (broker, request) = (self.broker.clone(), Arc::clone(&self.request));
            let recorder = Arc::clone(&recorder);
            move || {
                let requests = Socket::connect(&broker)?;
                call(requests, replies, &request, in_flight, &recorder)
            }
        });
        let failure = async {
            match calling.await {
                Ok(Ok(())) => anyhow::anyhow!("the caller ended early"),
                Ok(Err(error)) => error,
                Err(panicked) => panicked.into(),
            }
        };
        let measured = load.watch(&recorder, in_flight, failure).await;
        recorder.end();
        measured
    }
}

#[async_trait]
impl Stop for RunningSockets {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            // The last replies may have no queue any more.
            let _ = worker.await?;
        }
        Ok(())
    }
}
