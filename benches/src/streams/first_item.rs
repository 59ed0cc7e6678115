//! The time to the first item of a stream, compared with that of a call on the same connections.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::library::Library;
use super::system::{Ask, Reading, System as _};
use crate::bench::Bench;

/// How many calls and how many streams are measured, in turn.
const TIMES: usize = 300;

const ASK: Ask = Ask { items: 1, size: 16 };

/// Returns the median time to the first item ÷ the median time of a call. Prints both times.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<f64> {
    let library = Library::start(bench.broker()).await?;
    let payload = [b'x'; ASK.size as usize];
    let (mut calls, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let begun = Instant::now();
        library.client().echo(&payload).await?;
        calls.push(begun.elapsed());

        let begun = Instant::now();
        let mut reading = Reading::begin(&library, ASK).await?;
        ensure!(reading.next().await?, "a stream has no item");
        firsts.push(begun.elapsed());
        reading.finish().await?;
    }
    library.stop().await?;
    let (call, first) = (median(&mut calls), median(&mut firsts));
    eprintln!("a call takes {call:.0?}, and the first item of a stream arrives after {first:.0?}");
    Ok(first.div_duration_f64(call))
}

/// Returns the median, the longer of the middle two. Sorts the times.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
