//! The code that reads a peer's bytes, as functions over bytes.
//!
//! libFuzzer runs them (`fuzz/`). So do the tests below, on random bytes and on the inputs that the
//! fuzzer has found. A function must return for any input: it must not panic or hang, and its
//! memory is bounded by the length of the input. A value that it reads is written and read again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures_util::FutureExt;
use lapin::protocol::basic::parse_properties;
use lapin::types::parsing::parse_field_table;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::codec::{Codec, CowBytes, CowStr};
use crate::protocol::{
    ArgumentsSeed, BatchedCall, BatchedReply, DecodeArguments, EncodeArguments, Items, MAX_TIME_TO_LIVE,
    Message, NamedArguments, Properties, Reply, ReplyAddresses, ReplyKind, Request, ShortStr, read_batch,
    read_grants, write_batch, write_grants,
};
use crate::server::receive_fuzzed;
use crate::service;
use crate::service::{
    Context, Decision, Dispatcher, ForbiddenReplyAddress, Invocation, Received, Rules, Service,
};
use crate::transport::amqp::guard as amqp_guard;
use crate::transport::amqp::wire::{self as amqp_wire, sent_and_received};

/// A delivery from a request queue: AMQP properties as on the wire, then the body.
pub fn request(data: &[u8]) {
    let Some(message) = delivery(data) else { return };
    if let Ok(request) = Request::from_message(message.clone()) {
        let mut read = request.clone();
        read.time_to_live = read.time_to_live.map(|time| time.min(MAX_TIME_TO_LIVE));
        assert_eq!(
            Request::from_message(sent_and_received(&request.into_message())),
            Ok(read)
        );
    }

    match decide(message) {
        Ok(Decision::Run(admitted)) => handle(admitted.service, &admitted.invocation),
        Ok(Decision::Refuse(refusal)) => assert_eq!(refusal.reply.read_fault(), refusal.fault),
        // Only an executor cancels requests.
        Ok(Decision::Cancelled(_)) => unreachable!(),
        Err(ForbiddenReplyAddress(address)) => assert!(!RULES.reply_addresses.allows(address.as_str())),
    }
}

/// A delivery from a reply queue: a byte for the codec of the request, the rest as for [`request`].
pub fn reply(data: &[u8]) {
    let Some((asked_in, data)) = data.split_first() else {
        return;
    };
    let asked_in = [Codec::MessagePack, Codec::Json, Codec::Text][usize::from(*asked_in) % 3];
    let Some(message) = delivery(data) else { return };
    let correlation_id = message.properties.correlation_id.clone();
    let Ok(reply) = Reply::from_message(message, asked_in) else {
        return;
    };

    match reply.kind {
        ReplyKind::Result => answers(reply.codec, &reply.body),
        ReplyKind::Error => drop(reply.codec.decode::<Tree>(&reply.body)),
        ReplyKind::Fault => {
            let fault = reply.read_fault();
            if reply.codec != Codec::Text {
                assert_eq!(Reply::fault(reply.codec, &fault).read_fault(), fault);
            }
        }
    }
    let message = sent_and_received(&reply.clone().into_message(correlation_id.clone()));
    assert_eq!(message.properties.correlation_id, correlation_id);
    assert_eq!(Reply::from_message(message, asked_in).ok(), Some(reply));
}

/// The table of a message's headers, as on the wire.
pub fn headers(data: &[u8]) {
    let Ok((rest, _)) = parse_field_table(data) else {
        return;
    };
    let table = &data[..data.len() - rest.len()];
    let headers = amqp_wire::received_headers(table)
        .expect("it is complete")
        .properties
        .headers;

    let (mut count, mut bytes) = (0, 0);
    for (name, value) in headers.iter() {
        assert_eq!(headers.get(name), Some(value));
        count += 1;
        bytes += name.len() + value.len() + 6;
    }
    assert_eq!(
        (headers.len(), headers.wire_bytes(), headers.is_empty()),
        (count, bytes, count == 0)
    );
    let message = Message {
        properties: Properties {
            headers: headers.clone(),
            ..Properties::default()
        },
        body: Bytes::new(),
    };
    // The header `x-death` marks a message as dead-lettered, whatever it contains.
    assert_eq!(sent_and_received(&message).properties.headers, headers);
}

/// Frames from a broker's socket. The first byte says how they are split.
pub fn guard(data: &[u8]) {
    amqp_guard::check_any_bytes(data);
}

/// Frames from a broker's socket, as the task of the connection reads them. The first byte says how
/// they are split, and whether the other bytes are the frames or say how to make them.
pub fn wire(data: &[u8]) {
    amqp_wire::check_any_frames(data);
}

/// A `reply_to`.
pub fn reply_address(data: &[u8]) {
    let Ok(name) = std::str::from_utf8(data) else {
        return;
    };
    let has_prefix = ["amq.rabbitmq.reply-to.", "amq.gen-", "rpc.reply."]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let is_of_aio_pika = name.strip_prefix("amq_").is_some_and(|uuid| {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        uuid.len() == 32 && uuid.bytes().all(is_digit)
    });
    let is_reply_address = has_prefix || is_of_aio_pika;
    assert_eq!(ReplyAddresses::default().allows(name), is_reply_address);
    assert!(ReplyAddresses::default().allow(name).allows(name));
    assert!(ReplyAddresses::default().allow_prefix(name).allows(name));
    let Ok(address) = ShortStr::new(name) else { return };
    let message = Message {
        properties: Properties {
            reply_to: Some(address),
            ..Properties::default()
        },
        body: Bytes::new(),
    };
    let decision = decide(message);
    // An empty address counts as none, so the request is not dropped.
    let is_dropped = !name.is_empty() && !is_reply_address;
    assert_eq!(decision.is_err(), is_dropped);
}

/// The body of a batch of calls or replies.
pub fn batched(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(calls) = read_batch::<BatchedCall>(&body) {
        assert_eq!(
            read_batch::<BatchedCall>(&write_batch(&calls)).as_ref(),
            Ok(&calls)
        );
    }
    if let Ok(answers) = read_batch::<BatchedReply>(&body) {
        assert_eq!(
            read_batch::<BatchedReply>(&write_batch(&answers)).as_ref(),
            Ok(&answers)
        );
    }
}

/// The body of a message with items of a stream.
pub fn items(data: &[u8]) {
    if let Ok(items) = Items::read(&Bytes::copy_from_slice(data)) {
        assert_eq!(Items::read(&items.write()).as_ref(), Ok(&items));
        let count = items.items.volume().items;
        assert_eq!(items.items.iter().count() as u64, count);
        assert_eq!(items.items.count() as u64, count);
    }
}

/// The body of a message that grants credit to streams.
pub fn grants(data: &[u8]) {
    if let Ok(grants) = read_grants(&Bytes::copy_from_slice(data)) {
        assert_eq!(read_grants(&write_grants(&grants)).as_ref(), Ok(&grants));
    }
}

/// Messages to a worker's queue for items. Each begins with a byte that says how many items the
/// method takes after it, and two bytes for its length. The rest is as for [`request`].
pub fn incoming(data: &[u8]) {
    let mut rest = data;
    receive_fuzzed(std::iter::from_fn(|| {
        let (&[takes, high, low], after) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        Some((takes, delivery(message)?))
    }));
}

/// Arguments and answers in MessagePack.
pub fn message_pack(data: &[u8]) {
    body(Codec::MessagePack, data);
}

/// Arguments and answers in JSON.
pub fn json(data: &[u8]) {
    body(Codec::Json, data);
}

/// Arguments and answers in plain text.
pub fn text(data: &[u8]) {
    body(Codec::Text, data);
}

fn body(codec: Codec, body: &[u8]) {
    arguments(codec, body);
    answers(codec, body);
    for method in SERVICE.descriptor().methods {
        let mut request = Request::from_message(Message::default()).expect("an empty message is plain text");
        let context = Context::new(method.name, &mut request, Received::at(Instant::now()), false);
        handle(
            &**SERVICE,
            &Invocation::new(context, codec, Bytes::copy_from_slice(body)),
        );
    }
}

/// Reads arguments of several types, as a worker does, then writes and reads them again.
fn arguments(codec: Codec, body: &[u8]) {
    fn of<'de, A: DecodeArguments<'de>>(
        codec: Codec,
        names: &'static [&'static str],
        body: &'de [u8],
    ) -> Option<A> {
        codec.decode_seed(ArgumentsSeed::new(names), body).ok()
    }

    fn round_trip<A>(codec: Codec, names: &'static [&'static str], body: &[u8])
    where
        A: EncodeArguments + for<'de> DecodeArguments<'de>,
    {
        let write = |values: &A| codec.encode(&NamedArguments { names, values });
        let Some(values) = of::<A>(codec, names, body) else {
            return;
        };
        let written = write(&values).expect("what was read can be written");
        let again = of(codec, names, &written).expect("what was written can be read");
        // Compared as bytes: in memory, one NaN does not equal another.
        assert_eq!(write(&again).expect("what was read can be written"), written);
    }

    of::<(CowStr<'_>,)>(codec, &["a"], body);
    of::<(CowBytes<'_>,)>(codec, &["a"], body);
    of::<(CowStr<'_>, Option<CowStr<'_>>, CowBytes<'_>, Vec<&str>, &[u8])>(
        codec,
        &["a", "b", "c", "d", "e"],
        body,
    );
    round_trip::<()>(codec, &[], body);
    round_trip::<(String,)>(codec, &["a"], body);
    round_trip::<(char,)>(codec, &["a"], body);
    round_trip::<(bool,)>(codec, &["a"], body);
    round_trip::<(i64,)>(codec, &["a"], body);
    round_trip::<(f64,)>(codec, &["a"], body);
    round_trip::<(Tree,)>(codec, &["a"], body);
    round_trip::<(i8, u16, i32, u64, Option<i128>, Option<u128>)>(
        codec,
        &["a", "b", "c", "d", "e", "f"],
        body,
    );
    round_trip::<(Option<String>, Vec<Vec<u32>>, BTreeMap<String, Vec<bool>>)>(codec, &["a", "b", "c"], body);
}

/// Reads answers of several types, as a caller does, then writes and reads them again.
fn answers(codec: Codec, body: &[u8]) {
    fn round_trip<T: Serialize + DeserializeOwned + 'static>(codec: Codec, body: &[u8]) {
        let Ok(value) = codec.decode_result::<T>(body) else {
            return;
        };
        if body.is_empty() {
            // It may be read as `None`, which plain text cannot write.
            return;
        }
        let written = codec.encode_result(&value).expect("what was read can be written");
        let again = codec
            .decode_result::<T>(&written)
            .expect("what was written can be read");
        assert_eq!(
            codec.encode_result(&again).expect("what was read can be written"),
            written
        );
    }

    drop(codec.decode::<IgnoredAny>(body));
    drop(codec.decode::<Borrowing<'_>>(body));
    round_trip::<()>(codec, body);
    round_trip::<String>(codec, body);
    round_trip::<Vec<u8>>(codec, body);
    round_trip::<bool>(codec, body);
    round_trip::<char>(codec, body);
    round_trip::<i64>(codec, body);
    round_trip::<u128>(codec, body);
    round_trip::<f64>(codec, body);
    round_trip::<Option<u32>>(codec, body);
    round_trip::<Vec<Option<f64>>>(codec, body);
    round_trip::<Vec<Vec<Vec<u64>>>>(codec, body);
    round_trip::<(String, [u8; 4], (i16, bool))>(codec, body);
    round_trip::<BTreeMap<String, Vec<String>>>(codec, body);
    round_trip::<Tree>(codec, body);
    round_trip::<List>(codec, body);
    round_trip::<Flat>(codec, body);
}

/// Runs a method and reads the reply as its caller does.
fn handle(service: &dyn Service, invocation: &Invocation) {
    let answered = service
        .handle(invocation)
        .now_or_never()
        .expect("no method waits");
    let reply = match answered {
        Ok(answer) => answer.reply,
        Err(fault) => Reply::fault(invocation.codec(), &fault),
    };
    let read = Reply::from_message(sent_and_received(&reply.clone().into_message(None)), Codec::Text);
    assert_eq!(read.ok(), Some(reply));
}

fn delivery(data: &[u8]) -> Option<Message> {
    let (body, _) = parse_properties(data).ok()?;
    amqp_wire::received(&data[..data.len() - body.len()], body)
}

static SERVICE: LazyLock<Arc<dyn Service>> = LazyLock::new(|| Arc::new(EchoServer::new(Echoing)));

static DISPATCHER: LazyLock<Dispatcher> = LazyLock::new(|| {
    let mut dispatcher = Dispatcher::default();
    dispatcher
        .add(SERVICE.clone(), "fuzz")
        .expect("there is one service");
    dispatcher
});

/// Decides on a request that arrives for the first time.
fn decide(message: Message) -> Result<Decision<'static>, ForbiddenReplyAddress> {
    let now = Instant::now();
    DISPATCHER.decide(message, false, Received::at(now), now, &RULES)
}

static RULES: LazyLock<Rules> = LazyLock::new(|| Rules {
    reply_addresses: ReplyAddresses::default(),
    max_accepted_bytes: 4096,
    max_sent_bytes: 4096,
    max_deliveries: 20,
    is_classic: false,
    admission: true,
    layers_may_answer: false,
});

/// A value of any depth: sequences, maps and enum variants nest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Text(String),
    Next(Box<Tree>),
    Pair(Box<Tree>, Box<Tree>),
    Node(Vec<Tree>),
    Named {
        name: Option<String>,
        children: BTreeMap<String, Tree>,
    },
}

/// A value of any depth: `Option`s in structs nest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct List {
    value: i32,
    next: Option<Box<List>>,
}

/// A value that serde buffers before it knows the type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u64,
    #[serde(flatten)]
    rest: BTreeMap<String, Either>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Text(String),
    Many(Vec<Either>),
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)] // only deserialized
struct Borrowing<'a> {
    text: &'a str,
    #[serde(borrow)]
    maybe: Option<Cow<'a, str>>,
    bytes: &'a [u8],
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{0:?}")]
struct Refused(Tree);

/// A service, for the code that the macro generates.
#[service]
trait Echo {
    #[rpc(default, idempotent)]
    async fn text(&self, text: &str) -> String;
    async fn bytes(&self, bytes: &[u8], owned: Vec<u8>) -> Vec<u8>;
    async fn number(&self, number: i32) -> i32;
    async fn mixed(&self, rows: Vec<(u8, f32)>, #[serde(default)] limit: u32, note: Option<String>) -> usize;
    async fn tree(&self, tree: Tree) -> Result<Tree, Refused>;
    async fn nothing(&self);
}

struct Echoing;

impl Echo for Echoing {
    async fn text(&self, text: &str) -> String {
        text.to_owned()
    }

    async fn bytes(&self, bytes: &[u8], owned: Vec<u8>) -> Vec<u8> {
        [bytes, &owned].concat()
    }

    async fn number(&self, number: i32) -> i32 {
        number
    }

    async fn mixed(&self, rows: Vec<(u8, f32)>, limit: u32, note: Option<String>) -> usize {
        rows.len() + limit as usize + note.map_or(0, |note| note.len())
    }

    async fn tree(&self, tree: Tree) -> Result<Tree, Refused> {
        match tree {
            Tree::Leaf => Err(Refused(tree)),
            tree => Ok(tree),
        }
    }

    async fn nothing(&self) {}
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    type Target = fn(&[u8]);

    /// The functions and the names of their targets.
    const TARGETS: [(&str, Target); 13] = [
        ("guard", guard),
        ("wire", wire),
        ("request", request),
        ("reply", reply),
        ("headers", headers),
        ("batched", batched),
        ("items", items),
        ("grants", grants),
        ("incoming", incoming),
        ("reply_address", reply_address),
        ("message_pack", message_pack),
        ("json", json),
        ("text", text),
    ];

    proptest! {
        #[test]
        fn random_bytes_pass(data in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, target) in TARGETS {
                target(&data);
            }
        }
    }

    #[test]
    fn inputs_that_the_fuzzer_found_still_pass() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        for (name, target) in TARGETS {
            let mut inputs = archived(&fuzz.join(format!("corpus/{name}.tar.gz")))
                .unwrap_or_else(|error| panic!("the corpus of {name} cannot be read: {error}"));
            assert!(!inputs.is_empty(), "the corpus of {name} is empty");
            inputs.extend(crashes(&fuzz.join("crashes").join(name)));
            for input in inputs {
                target(&input);
            }
        }
    }

    #[test]
    fn crashes_are_of_known_targets() {
        let crashes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/crashes");
        for folder in std::fs::read_dir(crashes).unwrap() {
            let name = folder.unwrap().file_name();
            assert!(TARGETS.iter().any(|(target, _)| name == *target), "{name:?}");
        }
    }

    /// Returns the inputs in an archive that `fuzz/run` has packed.
    fn archived(archive: &Path) -> std::io::Result<Vec<Vec<u8>>> {
        let archive = GzDecoder::new(std::fs::File::open(archive)?);
        tar::Archive::new(archive)
            .entries()?
            .map(|entry| {
                let mut input = Vec::new();
                entry?.read_to_end(&mut input)?;
                Ok(input)
            })
            .collect()
    }

    /// Returns the inputs on which a target once failed.
    fn crashes(folder: &Path) -> Vec<Vec<u8>> {
        let Ok(files) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }
}
