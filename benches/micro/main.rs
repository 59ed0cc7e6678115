//! What those parts of a call cost that wait for nothing, each by itself and without a broker.
//!
//! ```sh
//! cargo bench -p rpc-bench --bench micro               # everything, three minutes
//! cargo bench -p rpc-bench --bench micro -- batched     # those with "batched" in their names
//! cargo test -p rpc-bench --bench micro                # each once, to see that it runs
//! ```
//!
//! Criterion compares a run with the one before it, and says what changed by more than chance.

mod batched;
mod batcher;
mod codecs;
mod dispatch;
mod guard;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // A sample is thousands of iterations of most: less than criterion's eight seconds each tells changes from chance.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
        .configure_from_args();
    codecs::arguments(&mut criterion);
    codecs::answers(&mut criterion);
    batched::calls(&mut criterion);
    batcher::lanes(&mut criterion);
    dispatch::requests(&mut criterion);
    guard::deliveries(&mut criterion);
    criterion.final_summary();
}
