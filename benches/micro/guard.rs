//! The cost of checking deliveries as they come from the socket.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use rpc_runtime::benching::Guard;

/// How many messages arrive at once.
const MESSAGES: usize = 100;

pub(crate) fn deliveries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("guard");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for (name, properties, body) in [
        ("request", request(), 40),
        ("reply", reply(), 40),
        // Two zero bytes: no properties.
        ("bare_body_16KiB", vec![0, 0], 16 * 1024),
    ] {
        let mut frames = delivery(&properties, body).repeat(MESSAGES);
        let mut guard = Guard::new();
        assert_eq!(guard.pass(&mut frames), frames.len());
        group.bench_function(BenchmarkId::new("pass", name), |bencher| {
            bencher.iter(|| guard.pass(black_box(&mut frames)));
        });
    }
    group.finish();
}

/// Returns AMQP's form of a short string.
fn short(text: &str) -> Vec<u8> {
    let size = u8::try_from(text.len()).expect("our own texts are short");
    [&[size], text.as_bytes()].concat()
}

/// Returns the properties of a request.
fn request() -> Vec<u8> {
    let header = [&short("traceparent")[..], b"S\0\0\0\x37", &[b'0'; 55]].concat();
    let size = u32::try_from(header.len()).expect("a header is short");
    // Content type, headers, delivery mode, correlation id, reply address, expiration and type.
    [
        &[0b1011_0111, 0b0010_0000][..],
        &short("application/msgpack"),
        &size.to_be_bytes(),
        &header,
        &[1],
        &short("9f0e2a64-3c7b-4f5e-8a57-0a1d6c3f2b11"),
        &short("rpc.reply.7d4f41ab-2f3b-4b49-b7bb-2a4d7a9c1e55"),
        &short("30000"),
        &short("get_email"),
    ]
    .concat()
}

/// Returns the properties of a reply.
fn reply() -> Vec<u8> {
    [
        &[0b1001_0100, 0b0010_0000][..],
        &short("application/msgpack"),
        &[1],
        &short("9f0e2a64-3c7b-4f5e-8a57-0a1d6c3f2b11"),
        &short("result"),
    ]
    .concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a frame is short");
    [&[kind, 0, 1][..], &size.to_be_bytes(), payload, &[0xce]].concat()
}

/// Returns the frames of a delivery. `body` is the size of its body.
fn delivery(properties: &[u8], body: usize) -> Vec<u8> {
    // `basic.deliver`: the consumer's name, delivery tag 7, not redelivered, the default exchange
    // and the routing key.
    let deliver = [
        &[0, 60, 0, 60][..],
        &short("amq.ctag-nCJ3gkA6Cn0pOk4qFeq0PA"),
        &[0, 0, 0, 0, 0, 0, 0, 7, 0],
        &short(""),
        &short("directory"),
    ]
    .concat();
    let size = u64::try_from(body).expect("64 bits are enough").to_be_bytes();
    let header = [&[0, 60, 0, 0][..], &size, properties].concat();
    [frame(1, &deliver), frame(2, &header), frame(3, &vec![b'x'; body])].concat()
}
