//! Plain sockets: pre-encoded requests and replies, one thread for the caller and each worker, and
//! no handler. This is the broker's limit with one message for each call.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use rpc_tests::rabbit::unique;
use tokio::task::spawn_blocking;

use super::super::{Contender, Running};
use super::frames::{Outgoing, Scanner, ack_up_to};
use super::running::{RunningSockets, WorkerLoop};
use super::socket::{Acknowledge, BATCH_BYTES, Lifetime, Socket};
use crate::measure::Recorder;
use crate::scenario::Scenario;

pub(crate) struct Bare;

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
impl Contender for Bare {
    async fn start(&self, broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>> {
        let (broker, scenario) = (broker.to_owned(), *scenario);
        let running = spawn_blocking(move || open(&broker, &scenario)).await??;
        Ok(Box::new(running))
    }
}

fn open(broker: &str, scenario: &Scenario) -> anyhow::Result<RunningSockets> {
    let payload = vec![b'x'; scenario.payload];
    let queue = unique("raw");
    let mut consuming = Socket::connect(broker)?;
    let replies = consuming.declare("", Lifetime::Exclusive)?;
    ensure!(!replies.is_empty(), "the broker named no reply queue");
    consuming.consume(&replies, Acknowledge::Never)?;

    // Nothing reads the correlation id. It is there because every call has one.
    let encode = |queue: &str, reply_to: Option<&str>| {
        let message = Outgoing {
            queue,
            correlation_id: "0000000000000000",
            reply_to,
            body: &payload,
            ..Default::default()
        };
        let mut frames = Vec::new();
        message.write(&mut frames, consuming.frame_max());
        Repeated::new(&frames)
    };
    let reply = Arc::new(encode(&replies, None));
    let mut workers: Vec<WorkerLoop> = Vec::new();
    for _ in 0..scenario.workers {
        let mut requests = Socket::connect(broker)?;
        requests.declare(&queue, Lifetime::WithItsConsumers)?;
        requests.consume(&queue, Acknowledge::Each)?;
        let replies = Socket::connect(broker)?;
        let reply = Arc::clone(&reply);
        workers.push(Box::new(move |stop| work(requests, replies, &reply, stop)));
    }
    let requests = Socket::connect(broker)?;
    let request = encode(&queue, Some(&replies));
    let in_flight = scenario.in_flight;
    let caller = move |recorder: &Recorder| call(requests, consuming, &request, in_flight, recorder);
    Ok(RunningSockets::start(Box::new(caller), workers))
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
