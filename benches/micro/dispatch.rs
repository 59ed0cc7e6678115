//! What a worker does with a request, except deduplication and sending the reply.

use criterion::{BatchSize, BenchmarkId, Criterion};
use rpc_runtime::benching::{Arrived, Worker, decode_result, encode_arguments};
use rpc_runtime::{Codec, service};
use tokio::time::Instant;

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

pub(crate) fn requests(criterion: &mut Criterion) {
    let worker = Worker::new(DirectoryServer::new(Users)).unwrap();
    // The clock is not part of the measurement.
    let now = Instant::now();
    let mut group = criterion.benchmark_group("dispatch");
    for (name, codec) in [("msgpack", Codec::MessagePack), ("json", Codec::Json)] {
        let arguments = encode_arguments(codec, &["id"], &("user:12345",)).unwrap();
        let request = Arrived::new("get_email", codec, arguments);
        let decide_and_run = |request| {
            let admitted = worker.decide(request, now).unwrap();
            worker.run(&admitted).unwrap()
        };
        let answer = decode_result::<String>(codec, &decide_and_run(request.clone()));
        assert_eq!(answer.unwrap(), "user:12345");

        group.bench_function(BenchmarkId::new("decide", name), |bencher| {
            let decide = |request| worker.decide(request, now);
            bencher.iter_batched(|| request.clone(), decide, BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("decide_and_run", name), |bencher| {
            bencher.iter_batched(|| request.clone(), decide_and_run, BatchSize::SmallInput);
        });
    }
    group.finish();
}
