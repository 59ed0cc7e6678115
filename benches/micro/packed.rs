//! Several calls to the body of one message and back.

use criterion::{BenchmarkId, Criterion, Throughput};
use rpc_runtime::Codec;
use rpc_runtime::benching::{Calls, encode_arguments, unpack_calls};

pub(crate) fn calls(criterion: &mut Criterion) {
    let arguments = encode_arguments(Codec::MessagePack, &["id"], &("user:12345",)).unwrap();
    let mut group = criterion.benchmark_group("packed");
    for count in [1, 64, 1024] {
        let calls = Calls::new(count, "get_email", &arguments);
        let body = calls.pack();
        assert_eq!(unpack_calls(&body).map(|calls| calls.len()), Some(count));

        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("pack", count), |bencher| {
            bencher.iter(|| calls.pack());
        });
        group.bench_function(BenchmarkId::new("unpack", count), |bencher| {
            bencher.iter(|| unpack_calls(&body));
        });
    }
    group.finish();
}
