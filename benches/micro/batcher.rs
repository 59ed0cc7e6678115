//! The cost of deciding in which order and in which batches waiting items are published.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use rpc_runtime::benching::Waiting;

/// About as large as a caller's key: a queue's name and what else the calls have in common.
type Lane = (Arc<str>, u32);

/// About as large as a caller's record of a waiting call.
type Item = [usize; 5];

const ITEM: Item = [0; 5];

/// The assumed size of an item on the wire. A batch has room for the maximum number of such items.
const BYTES: usize = 100;

/// How many items the receiver accepts in a batch: the maximum.
const BATCH_SIZE: u16 = 1024;

fn lane(number: u32) -> Lane {
    (format!("user_directory.{number}.batch").into(), 30_000)
}

pub(crate) fn items(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batcher");
    group.bench_function("one_by_one", |bencher| {
        let mut waiting = Waiting::<Lane, Item>::new();
        let lane = lane(0);
        bencher.iter(|| {
            waiting.push(lane.clone(), ITEM, BYTES, BATCH_SIZE);
            let left = waiting.leave();
            waiting.done(&lane);
            left
        });
    });

    for count in [1, 64, 1024] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("gather", count), |bencher| {
            let mut waiting = Waiting::<Lane, Item>::new();
            let lane = lane(0);
            hold_up(&mut waiting, &lane);
            bencher.iter(|| {
                for _ in 0..count {
                    waiting.push(lane.clone(), ITEM, BYTES, BATCH_SIZE);
                }
                waiting.done(&lane);
                let (_, together) = waiting.leave().unwrap();
                assert_eq!(together.len(), count);
                together
            });
        });
    }

    const LANES: usize = 64;
    group.throughput(Throughput::Elements(LANES as u64));
    group.bench_function(BenchmarkId::new("lanes", LANES), |bencher| {
        let mut waiting = Waiting::<Lane, Item>::new();
        let lanes: Vec<_> = (0..).map(lane).take(LANES).collect();
        bencher.iter(|| {
            for lane in &lanes {
                waiting.push(lane.clone(), ITEM, BYTES, BATCH_SIZE);
            }
            let mut left = 0;
            while let Some((lane, _)) = waiting.leave() {
                waiting.done(&lane);
                left += 1;
            }
            assert_eq!(left, LANES);
        });
    });
    group.finish();
}

/// Publishes as many messages as may be unconfirmed, so that later items wait.
fn hold_up(waiting: &mut Waiting<Lane, Item>, lane: &Lane) {
    loop {
        waiting.push(lane.clone(), ITEM, BYTES, BATCH_SIZE);
        if waiting.leave().is_none() {
            break;
        }
    }
    // The last item had to wait. It takes the place of a confirmed one, so that none waits.
    waiting.done(lane);
    waiting.leave();
}
