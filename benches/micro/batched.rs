//! Encodes one or more calls as the body of one batch, and decodes it.

use criterion::{BenchmarkId, Criterion, Throughput};
use rpc_runtime::Codec;
use rpc_runtime::benching::{Calls, encode_arguments, read_batch_of_calls};

pub(crate) fn calls(criterion: &mut Criterion) {
    let arguments = encode_arguments(Codec::MessagePack, &["id"], &("user:12345",)).unwrap();
    let mut group = criterion.benchmark_group("batched");
    for count in [1, 64, 1024] {
        let calls = Calls::new(count, "get_email", &arguments);
        let body = calls.write_batch();
        assert_eq!(read_batch_of_calls(&body).map(|calls| calls.len()), Some(count));

        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("batch", count), |bencher| {
            bencher.iter(|| calls.write_batch());
        });
        group.bench_function(BenchmarkId::new("unbatch", count), |bencher| {
            bencher.iter(|| read_batch_of_calls(&body));
        });
    }
    group.finish();
}
