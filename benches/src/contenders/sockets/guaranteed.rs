//! Plain sockets with the guarantees of this library: the broker's limit with one message for each
//! call, if no call and no reply may be lost.
//!
//! - Both sides publish with confirms. Requests are `mandatory` and expire.
//! - The reply queue is durable, and outlives its consumer by a minute.
//! - A request is acknowledged once its reply is confirmed, and a reply once it has reached its
//!   call, both by the rule of this library: after a millisecond, or with an eighth of the
//!   prefetch.
//! - Replies are matched with their calls by correlation id.
//!
//! Each side has one connection to publish and one to consume, like this library, and one thread,
//! which reads both. A worker has no handler: it returns the body of the request.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use rpc_tests::rabbit::unique;
use tokio::task::spawn_blocking;

use super::super::{Contender, Running};
use super::acks::Acks;
use super::frames::Outgoing;
use super::incoming::{Assembler, Delivery, Incoming};
use super::running::{RunningSockets, WorkerLoop};
use super::socket::{Acknowledge, BATCH_BYTES, Lifetime, PATIENCE, Socket};
use super::unconfirmed::Unconfirmed;
use crate::measure::Recorder;
use crate::scenario::Scenario;

/// How many replies may be unacknowledged, as in this library.
const REPLY_PREFETCH: u16 = 2000;

/// How long a request may wait in its queue, in milliseconds. Callers of other contenders wait as
/// long for a reply.
const EXPIRATION: &str = "60000";

pub(crate) struct Guaranteed;

#[async_trait]
impl Contender for Guaranteed {
    async fn start(&self, broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>> {
        let (broker, scenario) = (broker.to_owned(), *scenario);
        let running = spawn_blocking(move || open(&broker, &scenario)).await??;
        Ok(Box::new(running))
    }
}

fn open(broker: &str, scenario: &Scenario) -> anyhow::Result<RunningSockets> {
    let queue = unique("raw");
    let mut workers: Vec<WorkerLoop> = Vec::new();
    for _ in 0..scenario.workers {
        let worker = Worker::open(broker, &queue, scenario.prefetch())?;
        workers.push(Box::new(move |stop| worker.work(stop)));
    }
    let caller = Caller::open(broker, queue, scenario)?;
    let caller = move |recorder: &Recorder| caller.call(recorder);
    Ok(RunningSockets::start(Box::new(caller), workers))
}

/// The two connections of a side.
struct Connections {
    publisher: Publisher,
    consumer: Consumer,
}

/// The connection that publishes.
struct Publisher {
    socket: Socket,
    received: Assembler,
    unconfirmed: Unconfirmed,
    /// What is to be written.
    frames: Vec<u8>,
}

/// The connection that consumes.
struct Consumer {
    socket: Socket,
    received: Assembler,
    acks: Acks,
}

impl Connections {
    /// Declares the queue and consumes from it.
    fn open(broker: &str, queue: &str, lifetime: Lifetime, prefetch: u16) -> anyhow::Result<Self> {
        let mut publishing = Socket::connect(broker)?;
        publishing.enable_confirms()?;
        let mut consuming = Socket::connect(broker)?;
        consuming.declare(queue, lifetime)?;
        consuming.set_prefetch(prefetch)?;
        consuming.consume(queue, Acknowledge::Each)?;
        let publisher = Publisher {
            socket: publishing,
            received: Assembler::default(),
            unconfirmed: Unconfirmed::new(),
            frames: Vec::new(),
        };
        let consumer = Consumer {
            socket: consuming,
            received: Assembler::default(),
            acks: Acks::new(prefetch),
        };
        Ok(Self { publisher, consumer })
    }

    /// Sends all waiting messages and the acknowledgements that are due, and waits a moment for
    /// what comes next. Returns whether there are confirms, and whether there are deliveries.
    fn wait(&mut self) -> anyhow::Result<[bool; 2]> {
        let Self { publisher, consumer } = self;
        publisher.flush()?;
        let now = Instant::now();
        consumer.acks.send(&mut consumer.socket, now)?;
        let patience = consumer.acks.patience(now, PATIENCE);
        Socket::wait([&publisher.socket, &consumer.socket], patience)
    }
}

impl Publisher {
    /// Publishes a message, with the next [`flush`](Self::flush) or at once if many bytes wait.
    /// `number` is ours: [`read_confirms`](Self::read_confirms) says with it what is confirmed.
    fn publish(&mut self, number: u64, message: &Outgoing<'_>) -> anyhow::Result<()> {
        self.unconfirmed.add(number)?;
        message.write(&mut self.frames, self.socket.frame_max());
        if self.frames.len() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if !self.frames.is_empty() {
            self.socket.write(&self.frames)?;
            self.frames.clear();
        }
        Ok(())
    }

    /// Reads confirms. Returns our number of the last message that is confirmed with all before it,
    /// if there is a new one.
    fn read_confirms(&mut self) -> anyhow::Result<Option<u64>> {
        self.socket.read(self.received.scanner())?;
        let (unconfirmed, mut last) = (&mut self.unconfirmed, None);
        self.received.complete(|incoming| match incoming {
            Incoming::Confirm { tag, multiple } => {
                last = unconfirmed.confirm(tag, multiple)?.or(last);
                Ok(())
            }
            Incoming::Delivery(_) => bail!("a delivery without a consumer"),
        })?;
        Ok(last)
    }
}

impl Consumer {
    /// Passes on the deliveries that have arrived completely.
    fn read(&mut self, mut each: impl FnMut(&Delivery) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.socket.read(self.received.scanner())?;
        self.received.complete(|incoming| match incoming {
            Incoming::Delivery(delivery) => each(delivery),
            Incoming::Confirm { .. } => bail!("a confirm without a message"),
        })
    }
}

struct Worker(Connections);

impl Worker {
    fn open(broker: &str, queue: &str, prefetch: u16) -> anyhow::Result<Self> {
        let lifetime = Lifetime::WithItsConsumers;
        Ok(Self(Connections::open(broker, queue, lifetime, prefetch)?))
    }

    fn work(mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let [has_confirms, has_requests] = self.0.wait()?;
            let Connections { publisher, consumer } = &mut self.0;
            if has_confirms && let Some(request) = publisher.read_confirms()? {
                consumer.acks.done(request, Instant::now());
            }
            if has_requests {
                consumer.read(|request| reply(publisher, request))?;
            }
        }
        Ok(())
    }
}

/// The reply's number is the request's tag. Replies are published in the order of their requests,
/// so a confirm says up to which request to acknowledge.
fn reply(publisher: &mut Publisher, request: &Delivery) -> anyhow::Result<()> {
    ensure!(!request.reply_to.is_empty(), "a request has no reply_to");
    let reply = Outgoing {
        queue: &request.reply_to,
        correlation_id: &request.correlation_id,
        body: &request.body,
        ..Default::default()
    };
    publisher.publish(request.tag, &reply)
}

struct Caller {
    connections: Connections,
    queue: String,
    reply_to: String,
    payload: Vec<u8>,
    in_flight: usize,
    calls: Calls,
}

/// The calls in flight.
#[derive(Default)]
struct Calls {
    /// When each one began, by its number.
    begun: HashMap<u64, Instant>,
    /// The number of the last call.
    last: u64,
    /// The text of the last correlation id.
    id: String,
}

impl Calls {
    /// Begins a call and returns its number and its correlation id.
    fn begin(&mut self, now: Instant) -> (u64, &str) {
        self.last += 1;
        self.begun.insert(self.last, now);
        self.id.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.id, "{:016x}", self.last);
        (self.last, &self.id)
    }

    /// Ends a call and returns when it began.
    fn end(&mut self, reply: &Delivery) -> anyhow::Result<Instant> {
        let number = u64::from_str_radix(&reply.correlation_id, 16)?;
        self.begun.remove(&number).context("a reply without a call")
    }
}

impl Caller {
    fn open(broker: &str, queue: String, scenario: &Scenario) -> anyhow::Result<Self> {
        let reply_to = unique("rpc.reply");
        Ok(Self {
            connections: Connections::open(broker, &reply_to, Lifetime::Resumable, REPLY_PREFETCH)?,
            queue,
            reply_to,
            payload: vec![b'x'; scenario.payload],
            in_flight: scenario.in_flight,
            calls: Calls::default(),
        })
    }

    /// Keeps `in_flight` calls in flight until the recorder is over.
    fn call(mut self, recorder: &Recorder) -> anyhow::Result<()> {
        // Each of the first calls counts as a caller that warms up, until its reply comes.
        let (mut missing, mut warming_up) = (self.in_flight, self.in_flight);
        while !recorder.is_over() {
            self.begin_calls(missing)?;
            missing = 0;
            let [has_confirms, has_replies] = self.connections.wait()?;
            if has_confirms {
                self.connections.publisher.read_confirms()?;
            }
            if has_replies {
                missing = self.take_replies(recorder)?;
            }
            let first = missing.min(warming_up);
            warming_up -= first;
            recorder.warmed_up(first);
        }
        Ok(())
    }

    fn begin_calls(&mut self, count: usize) -> anyhow::Result<()> {
        let now = Instant::now();
        for _ in 0..count {
            let (number, correlation_id) = self.calls.begin(now);
            let request = Outgoing {
                queue: &self.queue,
                mandatory: true,
                correlation_id,
                reply_to: Some(&self.reply_to),
                expiration: Some(EXPIRATION),
                body: &self.payload,
            };
            self.connections.publisher.publish(number, &request)?;
        }
        Ok(())
    }

    /// Ends the calls whose replies have arrived, records their latencies, and has the replies
    /// acknowledged. Returns how many they are.
    fn take_replies(&mut self, recorder: &Recorder) -> anyhow::Result<usize> {
        let (consumer, calls) = (&mut self.connections.consumer, &mut self.calls);
        let (mut taken, mut last, size) = (0, None, self.payload.len());
        let now = Instant::now();
        consumer.read(|reply| {
            ensure!(reply.body.len() == size, "a reply has another size");
            recorder.record(0, now.saturating_duration_since(calls.end(reply)?));
            (taken, last) = (taken + 1, Some(reply.tag));
            Ok(())
        })?;
        if let Some(last) = last {
            consumer.acks.done(last, now);
        }
        Ok(taken)
    }
}
