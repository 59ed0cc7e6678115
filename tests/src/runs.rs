//! Counts how often methods ran, and how many go on. A caller names each of its calls with an
//! "entry", the first argument of the method.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::until;

/// The runs of all methods of a service. All clones share their counts.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    /// The entry of each run that has begun.
    began: Arc<Mutex<Vec<String>>>,
    running: Arc<AtomicUsize>,
}

/// A run of a method, which goes on until this is dropped.
#[derive(Debug)]
pub struct Run {
    /// The number of this run among those of all entries, from 1.
    pub number: u64,
    running: Arc<AtomicUsize>,
}

impl Runs {
    /// Begins a run of an entry.
    pub fn begin(&self, entry: &str) -> Run {
        let mut began = self.began.lock().unwrap();
        began.push(entry.to_owned());
        self.running.fetch_add(1, Ordering::SeqCst);
        Run {
            number: began.len() as u64,
            running: Arc::clone(&self.running),
        }
    }

    /// Returns how many runs of an entry have begun.
    pub fn of(&self, entry: &str) -> usize {
        let began = self.began.lock().unwrap();
        began.iter().filter(|run| *run == entry).count()
    }

    /// Returns how many runs go on.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Waits until no run goes on.
    ///
    /// # Panics
    ///
    /// Panics if that takes longer than the limit.
    pub async fn end(&self, limit: Duration) {
        until("no method goes on", limit, async || Ok(self.running() == 0))
            .await
            .unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}
