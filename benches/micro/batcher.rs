//! In which order what waits leaves, and what of it together.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use rpc_runtime::benching::Waiting;

/// As a caller's: a queue's name and what else its calls have in common.
type Lane = (Arc<str>, u32);

/// As large as what a caller keeps of a call that waits.
type Item = [usize; 5];

const ITEM: Item = [0; 5];

/// How many bytes an item is taken for: a whole message of the most items holds them all.
const BYTES: usize = 100;

const WANTED: u16 = 1024;

fn lane(number: u32) -> Lane {
    (format!("user_directory.{number}.batch").into(), 30_000)
}

pub(crate) fn lanes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batcher");
    group.bench_function("one_by_one", |bencher| {
        let mut waiting = Waiting::<Lane, Item>::new();
        let lane = lane(0);
        bencher.iter(|| {
            waiting.push(lane.clone(), ITEM, BYTES, WANTED);
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
                    waiting.push(lane.clone(), ITEM, BYTES, WANTED);
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
                waiting.push(lane.clone(), ITEM, BYTES, WANTED);
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

/// Sends as much as may be under way, so that what comes next gathers.
fn hold_up(waiting: &mut Waiting<Lane, Item>, lane: &Lane) {
    loop {
        waiting.push(lane.clone(), ITEM, BYTES, WANTED);
        if waiting.leave().is_none() {
            break;
        }
    }
    // The one that was held up itself.
    waiting.done(lane);
    waiting.leave();
}
