//! How long the machine has let nothing run, judged by a thread of the parent. What a worker
//! measures may be wrong by that much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::history::Micros;

const TICK: Duration = Duration::from_millis(50);

/// Measures stalls as long as it lives.
pub(crate) struct Stalls(Arc<AtomicU64>);

impl Stalls {
    /// Starts to measure, in a thread that ticks.
    pub(crate) fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let ticking = Arc::downgrade(&longest);
        thread::spawn(move || {
            let mut last = Instant::now();
            while let Some(longest) = ticking.upgrade() {
                let late = last.elapsed().saturating_sub(TICK).as_micros() as u64;
                longest.fetch_max(late, Ordering::Relaxed);
                last = Instant::now();
                // So that `upgrade` fails, and the thread ends, once `Stalls` is dropped.
                drop(longest);
                thread::sleep(TICK);
            }
        });
        Self(longest)
    }

    /// Returns the most by which a tick was late.
    pub(crate) fn longest(&self) -> Micros {
        self.0.load(Ordering::Relaxed)
    }
}
