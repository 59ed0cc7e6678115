//! Encodes and decodes arguments and results: small ones, and 64 KiB in one piece and in many.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use rpc_runtime::__private::{ByteSlice, CowBytes, CowStr, EncodeArguments};
use rpc_runtime::Codec;
use rpc_runtime::benching::{decode_arguments, decode_result, encode_arguments, encode_result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const CODECS: [(&str, Codec); 2] = [("msgpack", Codec::MessagePack), ("json", Codec::Json)];

const LARGE: usize = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Row {
    id: u64,
    name: String,
    price: f64,
    tags: Vec<String>,
}

/// About as many bytes as [`LARGE`] in JSON, and a fifth less in MessagePack.
fn rows() -> Vec<Row> {
    let row = |id: u64| Row {
        id,
        name: format!("row {id}"),
        price: 12.75,
        tags: vec!["new".into(), "sold".into()],
    };
    (0..1024).map(row).collect()
}

fn bytes() -> Vec<u8> {
    (0..=u8::MAX).cycle().take(LARGE).collect()
}

pub(crate) fn arguments(criterion: &mut Criterion) {
    const SMALL: &[&str] = &["id", "limit", "note"];
    let small = ("user:12345", 20u32, None::<&str>);
    arguments_of(criterion, "small", SMALL, &small, |codec, body| {
        let read = decode_arguments::<(CowStr<'_>, u32, Option<String>)>(codec, SMALL, body);
        black_box(read.unwrap());
    });

    const ROWS: &[&str] = &["rows"];
    arguments_of(criterion, "rows_64KiB", ROWS, &(rows(),), |codec, body| {
        let read = decode_arguments::<(Vec<Row>,)>(codec, ROWS, body);
        black_box(read.unwrap());
    });

    const BYTES: &[&str] = &["bytes"];
    let bytes = bytes();
    let values = (ByteSlice(&bytes),);
    arguments_of(criterion, "bytes_64KiB", BYTES, &values, |codec, body| {
        let read = decode_arguments::<(CowBytes<'_>,)>(codec, BYTES, body);
        black_box(read.unwrap());
    });
}

/// Measures encoding and decoding in each codec. Arguments may borrow from the body, so `decode`
/// names their type, which cannot be a parameter here.
fn arguments_of(
    criterion: &mut Criterion,
    case: &str,
    names: &'static [&'static str],
    values: &impl EncodeArguments,
    decode: impl Fn(Codec, &[u8]),
) {
    for (name, codec) in CODECS {
        let encode = || encode_arguments(codec, names, black_box(values)).unwrap();
        let body = encode();
        measure_both_ways(criterion, "arguments", name, case, &body, encode, || {
            decode(codec, black_box(&body));
        });
    }
}

pub(crate) fn answers(criterion: &mut Criterion) {
    answers_of(criterion, "small", &String::from("alice@example.com"));
    answers_of(criterion, "rows_64KiB", &rows());
    answers_of(criterion, "bytes_64KiB", &bytes());
}

fn answers_of<T>(criterion: &mut Criterion, case: &str, answer: &T)
where
    T: Serialize + DeserializeOwned + 'static,
{
    for (name, codec) in CODECS {
        let encode = || encode_result(codec, black_box(answer)).unwrap();
        let body = encode();
        measure_both_ways(criterion, "answer", name, case, &body, encode, || {
            decode_result::<T>(codec, black_box(&body)).unwrap()
        });
    }
}

/// Measures encoding and decoding of one value, separately.
fn measure_both_ways<E, D>(
    criterion: &mut Criterion,
    what: &str,
    codec: &str,
    case: &str,
    body: &[u8],
    encode: impl FnMut() -> E,
    decode: impl FnMut() -> D,
) {
    let mut group = criterion.benchmark_group(what);
    group.throughput(Throughput::Bytes(body.len() as u64));
    let id = |way: &str| BenchmarkId::new(format!("{way}/{codec}"), case);
    let mut encode = encode;
    group.bench_function(id("encode"), |bencher| bencher.iter(&mut encode));
    let mut decode = decode;
    group.bench_function(id("decode"), |bencher| bencher.iter(&mut decode));
    group.finish();
}
