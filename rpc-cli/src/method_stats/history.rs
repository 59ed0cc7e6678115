//! What was counted since an earlier update.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rpc_runtime::discovery::{MethodStats, WorkerStats};

use super::counts::Counts;

/// The last counts of each worker. A worker may be missing from an update.
#[derive(Debug, Default)]
pub(crate) struct History {
    updates: u64,
    last_update: Option<Instant>,
    workers: HashMap<String, LastCounts>,
}

#[derive(Debug)]
struct LastCounts {
    /// The number of the update that they are from.
    update: u64,
    at: Instant,
    /// By queue, service and method.
    methods: HashMap<(String, String, String), Counts>,
}

/// The number of updates in a row after which a missing worker is forgotten.
const MAX_MISSED: u64 = 10;

impl History {
    pub(crate) fn has_updates(&self) -> bool {
        self.last_update.is_some()
    }

    /// Returns what a worker, whose statistics are `stats`, counted of a method since its last
    /// counts, and the time since then. For a worker that started after the last update, both are
    /// since its start. `None` at the first update, and for an older worker without last counts.
    pub(crate) fn recent(
        &self,
        stats: &WorkerStats,
        queue: &str,
        method: &MethodStats,
        now: Instant,
    ) -> Option<(Counts, Duration)> {
        let last_update = self.last_update?;
        let counted = Counts::of(method);
        match self.workers.get(&stats.worker.id) {
            Some(last) => {
                let key = (queue.to_owned(), method.service.clone(), method.method.clone());
                let none = Counts::default();
                let earlier = last.methods.get(&key).unwrap_or(&none);
                Some((counted.since(earlier), now.saturating_duration_since(last.at)))
            }
            None => {
                let is_new = stats.worker.uptime() <= now.saturating_duration_since(last_update);
                is_new.then(|| (counted, stats.worker.uptime()))
            }
        }
    }

    /// Ends an update: keeps these counts for the next comparison, and forgets workers that were
    /// missing from the last [`MAX_MISSED`] updates.
    pub(crate) fn remember(&mut self, stats: &[WorkerStats], now: Instant) {
        self.updates += 1;
        self.last_update = Some(now);
        for stats in stats {
            let methods = stats.queues.iter().flat_map(|queue| {
                queue.methods.iter().map(|method| {
                    let key = (queue.queue.clone(), method.service.clone(), method.method.clone());
                    (key, Counts::of(method))
                })
            });
            let last = LastCounts {
                update: self.updates,
                at: now,
                methods: methods.collect(),
            };
            self.workers.insert(stats.worker.id.clone(), last);
        }
        self.workers
            .retain(|_, last| self.updates - last.update < MAX_MISSED);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn workers_that_are_gone_are_forgotten() {
        let mut history = History::default();
        for number in 0..100 {
            let worker = from_value(json!({"worker": {"id": number.to_string()}})).unwrap();
            history.remember(&[worker], Instant::now());
        }
        assert_eq!(history.workers.len(), 10);
    }
}
