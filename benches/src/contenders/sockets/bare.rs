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

/// A message, repeated as often as it fits into one write, but at least once.
struct Repeated {
    /// The bytes of one message.
    size: usize,
    frames: Vec<u8>,
}

impl Repeated {
    fn new(one: &[u8]) -> Self {
        Self {
            size: one.len(),
            frames: one.repeat((BATCH_BYTES / one.len()).max(1)),
        }
    }

    fn write(&self, socket: &mut Socket, mut times: usize) -> anyhow::Result<()> {
        while times > 0 {
            let count = times.min(self.frames.len() / self.size);
            socket.write(&self.frames[..count * self.size])?;
            times -= count;
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
    let reply_queue = consuming.declare("", Lifetime::Exclusive)?;
    ensure!(!reply_queue.is_empty(), "the broker named no reply queue");
    consuming.consume(&reply_queue, Acknowledge::Never)?;

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
    let reply = Arc::new(encode(&reply_queue, None));
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
    let request = encode(&queue, Some(&reply_queue));
    let in_flight = scenario.in_flight;
    let caller = move |recorder: &Recorder| call(requests, consuming, &request, in_flight, recorder);
    Ok(RunningSockets::start(Box::new(caller), workers))
}

/// Until `stop` is set, replies to all requests that have arrived, then acknowledges them.
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
            // Tags count the deliveries of a channel from 1.
            tag += u64::try_from(arrived)?;
            requests.write(&ack_up_to(tag))?;
        }
    }
    Ok(())
}

/// Keeps this many calls in flight until the recorder is over. Each reply is matched with the
/// oldest request. With one worker this is exact. With several, calls swap their latencies: the
/// mean stays correct, but percentiles are only approximate.
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
    // Each of the first calls counts as a caller that warms up, until its reply comes.
    let mut warming_up = in_flight;
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
        let first = missing.min(warming_up);
        warming_up -= first;
        recorder.warmed_up(first);
    }
    Ok(())
}
