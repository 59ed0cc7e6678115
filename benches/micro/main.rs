//! Micro-benchmarks of the synchronous parts of a call, each separately and without a broker.
//!
//! ```sh
//! cargo bench -p rpc-bench --bench micro               # everything, three minutes
//! cargo bench -p rpc-bench --bench micro -- batched     # those with "batched" in their names
//! cargo test -p rpc-bench --bench micro                # each once, to see that it runs
//! ```
//!
//! Criterion compares a run with the previous one and reports significant changes.

mod batched;
mod batcher;
mod codecs;
mod dispatch;
mod guard;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // A sample has thousands of iterations of most benchmarks, so less time than criterion's
    // default, eight seconds with the warm-up, suffices for each.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
        .configure_from_args();
    codecs::arguments(&mut criterion);
    codecs::answers(&mut criterion);
    batched::calls(&mut criterion);
    batcher::items(&mut criterion);
    dispatch::requests(&mut criterion);
    guard::deliveries(&mut criterion);
    criterion.final_summary();
}
