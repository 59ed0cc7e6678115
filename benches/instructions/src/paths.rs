//! The paths that are counted. Each is synchronous, or runs on one thread.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use rpc_runtime::__private::{CowStr, EncodeArguments};
use rpc_runtime::benching::{
    Arrived, Calls, Incoming, Outgoing, Waiting, Worker, decode_arguments, encode_arguments,
    read_batch_of_calls,
};
use rpc_runtime::{Codec, service};
use tokio::runtime;
use tokio::time::Instant;

/// How often a path runs while it is counted.
const REPEATS: usize = 1000;

/// How many calls a path encodes, decodes or batches at once.
const BATCH: usize = 64;

/// The paths by name.
const PATHS: [(&str, fn()); 12] = [
    ("publish_request", publish_request),
    ("publish_64_KiB", publish_large),
    ("acknowledge", acknowledge),
    ("receive_request", receive_request),
    ("receive_64_KiB", receive_large),
    ("receive_confirm", receive_confirm),
    ("batch_64_calls", batch),
    ("encode_64_calls", encode_batch),
    ("decode_64_calls", decode_batch),
    ("dispatch", dispatch),
    ("arguments", arguments),
    ("in_process_call", in_process_call),
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PATHS.into_iter().map(|(name, _)| name)
}

/// Runs the path with this name.
pub(crate) fn run(name: &str) -> Result<()> {
    let (_, path) = PATHS
        .into_iter()
        .find(|(each, _)| *each == name)
        .with_context(|| format!("no path {name}"))?;
    path();
    Ok(())
}

/// Runs a path a few times, so that tables and buffers have grown, and then in [`counted`].
fn measure<T>(mut path: impl FnMut() -> T) {
    let mut path = || {
        black_box(path());
    };
    for _ in 0..10 {
        path();
    }
    counted(&mut path);
}

/// Runs the path [`REPEATS`] times. `valgrind.rs` gives valgrind the name of this function, and
/// valgrind counts the instructions of this function and of what it calls.
#[inline(never)]
fn counted(path: &mut dyn FnMut()) {
    for _ in 0..REPEATS {
        path();
    }
}

#[service]
trait Directory {
    async fn get_email(&self, id: &str) -> String;
}

struct Users;

impl Directory for Users {
    async fn get_email(&self, id: &str) -> String {
        id.to_owned()
    }
}

fn request() -> Arrived {
    let arguments = encode_arguments(Codec::MessagePack, &["id"], &("user:12345",));
    Arrived::new(
        "get_email",
        Codec::MessagePack,
        arguments.expect("text can be encoded"),
    )
}

fn large() -> Arrived {
    Arrived::new("get_email", Codec::MessagePack, Bytes::from(vec![7; 64 * 1024]))
}

fn publish_request() {
    let request = request();
    let mut outgoing = Outgoing::new();
    measure(|| outgoing.publish(black_box(&request)).expect("it can be sent"));
}

fn publish_large() {
    let large = large();
    let mut outgoing = Outgoing::new();
    measure(|| outgoing.publish(black_box(&large)).expect("it can be sent"));
}

fn acknowledge() {
    let mut outgoing = Outgoing::new();
    let mut tag = 0;
    measure(|| {
        tag += 1;
        outgoing.acknowledge(tag)
    });
}

fn receive_request() {
    let mut frames = Incoming::delivery(&request()).expect("it can be sent");
    let mut incoming = Incoming::new();
    measure(|| assert_eq!(incoming.receive(black_box(&mut frames)), Some(1)));
}

fn receive_large() {
    let mut frames = Incoming::delivery(&large()).expect("it can be sent");
    let mut incoming = Incoming::new();
    measure(|| assert_eq!(incoming.receive(black_box(&mut frames)), Some(1)));
}

fn receive_confirm() {
    let mut frames = Incoming::confirm(7);
    let mut incoming = Incoming::new();
    measure(|| assert_eq!(incoming.receive(black_box(&mut frames)), Some(1)));
}

/// What a caller's batcher does with calls that come at once: it publishes the first few one by
/// one, and the others together once those messages are confirmed.
fn batch() {
    let lane: (Arc<str>, u32) = ("user_directory".into(), 30_000);
    let mut waiting = Waiting::<_, [usize; 5]>::new();
    let mut published = 0;
    measure(|| {
        for _ in 0..BATCH {
            // The same sizes as in `benches/micro/batcher.rs`.
            waiting.push(lane.clone(), [0; 5], 100, 1024);
            if waiting.leave().is_some() {
                published += 1;
            }
        }
        for _ in 0..std::mem::take(&mut published) {
            waiting.done(&lane);
        }
        while waiting.leave().is_some() {
            waiting.done(&lane);
        }
    });
}

fn encode_batch() {
    let arguments = encode_arguments(Codec::MessagePack, &["id"], &("user:12345",));
    let arguments = arguments.expect("text can be encoded");
    let calls = Calls::new(BATCH, "get_email", &arguments);
    measure(|| calls.write_batch());
}

fn decode_batch() {
    let arguments = encode_arguments(Codec::MessagePack, &["id"], &("user:12345",));
    let arguments = arguments.expect("text can be encoded");
    let body = Calls::new(BATCH, "get_email", &arguments).write_batch();
    measure(|| {
        let calls = read_batch_of_calls(black_box(&body)).expect("it was written");
        assert_eq!(calls.len(), BATCH);
    });
}

/// What a worker does with a request, except deduplication and sending the reply.
fn dispatch() {
    let worker = Worker::new(DirectoryServer::new(Users)).expect("there is one service");
    let request = request();
    // The clock is not part of the path.
    let now = Instant::now();
    measure(|| {
        let admitted = worker.decide(request.clone(), now).expect("it is in time");
        worker.run(&admitted).expect("the method does not wait")
    });
}

/// Encodes and decodes arguments in MessagePack and in JSON.
fn arguments() {
    const NAMES: &[&str] = &["id", "limit", "note"];
    fn there_and_back(codec: Codec, values: &impl EncodeArguments) {
        let body = encode_arguments(codec, NAMES, values).expect("small values can be encoded");
        let read = decode_arguments::<(CowStr<'_>, u32, Option<String>)>(codec, NAMES, &body);
        black_box(read.expect("it was written"));
    }
    let values = ("user:12345", 20_u32, None::<&str>);
    measure(|| {
        there_and_back(Codec::MessagePack, black_box(&values));
        there_and_back(Codec::Json, black_box(&values));
    });
}

fn in_process_call() {
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be built");
    let directory = DirectoryClient::in_process(Users);
    measure(|| {
        let email = runtime.block_on(async { directory.get_email("user:12345").await });
        assert_eq!(email.expect("the method answers"), "user:12345");
    });
}
