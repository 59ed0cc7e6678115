//! Which workers run and what they serve, as far as is known. Does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rpc_runtime::discovery::{Discovered, Worker, WorkerDescription, WorkerStats};

/// The number of rounds in a row after which a worker that did not answer counts as gone. One
/// answer may be late.
const MAX_MISSED: u64 = 2;

/// How often workers are asked again what they serve if none came or went: some may not have
/// answered.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Fleet {
    round: u64,
    /// By id.
    workers: BTreeMap<String, Seen>,
    /// The latest description of each worker, without those that were gone when workers were asked
    /// last. `None` before the first answers.
    found: Option<Discovered<WorkerDescription>>,
    /// The workers that ran when they were asked last what they serve, and when that was.
    asked: Option<(BTreeSet<String>, Instant)>,
}

#[derive(Debug)]
struct Seen {
    worker: Worker,
    /// The last round in which it answered.
    round: u64,
}

impl Fleet {
    /// Notes which workers have answered in a round, and drops those that are gone.
    pub(super) fn note_round(&mut self, stats: &[WorkerStats]) {
        self.round += 1;
        let round = self.round;
        for WorkerStats { worker, .. } in stats {
            let worker = worker.clone();
            self.workers.insert(worker.id.clone(), Seen { worker, round });
        }
        self.workers.retain(|_, seen| round - seen.round < MAX_MISSED);
    }

    /// Whether to ask the workers what they serve.
    pub(super) fn must_ask_services(&self, now: Instant) -> bool {
        let Some((ids, at)) = &self.asked else {
            return true;
        };
        let came_or_went = !ids.iter().eq(self.workers.keys());
        came_or_went || now.saturating_duration_since(*at) >= ASK_AGAIN
    }

    /// Notes what workers serve, and that they were asked.
    pub(super) fn note_services(&mut self, mut found: Discovered<WorkerDescription>, now: Instant) {
        self.asked = Some((self.workers.keys().cloned().collect(), now));
        let answered: BTreeSet<_> = found
            .workers
            .iter()
            .map(|description| description.worker.id.clone())
            .collect();
        let earlier = self.found.take().map(|found| found.workers).unwrap_or_default();
        // A worker whose answer is late this time serves what it served before.
        let late = earlier.into_iter().filter(|earlier| {
            !answered.contains(&earlier.worker.id) && self.workers.contains_key(&earlier.worker.id)
        });
        found.workers.extend(late);
        self.found = Some(found);
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().map(|seen| &seen.worker)
    }

    pub(super) fn found(&self) -> Option<&Discovered<WorkerDescription>> {
        self.found.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{from_value, json};

    use super::*;

    fn workers<T: DeserializeOwned>(ids: &[&str]) -> Vec<T> {
        let workers = ids.iter().map(|id| from_value(json!({"worker": {"id": id}})));
        workers.collect::<Result<_, _>>().unwrap()
    }

    fn ids(fleet: &Fleet) -> Vec<&str> {
        fleet.workers().map(|worker| worker.id.as_str()).collect()
    }

    #[test]
    fn a_worker_is_gone_after_two_rounds_without_an_answer() {
        let mut fleet = Fleet::default();
        fleet.note_round(&workers(&["a", "b"]));
        fleet.note_round(&workers(&["a"]));
        assert_eq!(ids(&fleet), ["a", "b"]);
        fleet.note_round(&workers(&["a"]));
        assert_eq!(ids(&fleet), ["a"]);
        fleet.note_round(&workers(&["a", "b"]));
        assert_eq!(ids(&fleet), ["a", "b"]);
    }

    #[tokio::test]
    async fn workers_are_asked_what_they_serve_when_one_comes_or_goes() {
        // Only discovery makes such an answer.
        let mut found = rpc_runtime::Broker::in_process()
            .discover()
            .services()
            .await
            .unwrap();
        let now = Instant::now();
        let mut fleet = Fleet::default();
        assert!(fleet.must_ask_services(now));
        fleet.note_round(&workers(&["a", "b"]));
        found.workers = workers(&["a", "b"]);
        fleet.note_services(found.clone(), now);
        assert!(!fleet.must_ask_services(now) && fleet.must_ask_services(now + ASK_AGAIN));
        fleet.note_round(&workers(&["a", "b", "c"]));
        assert!(fleet.must_ask_services(now));
        // The answer of `a` is late.
        found.workers = workers(&["b", "c"]);
        fleet.note_services(found.clone(), now);
        assert_eq!(fleet.found().unwrap().workers.len(), 3);
        for _ in 0..MAX_MISSED {
            fleet.note_round(&workers(&["b", "c"]));
        }
        assert!(fleet.must_ask_services(now));
        fleet.note_services(found, now);
        assert_eq!(fleet.found().unwrap().workers.len(), 2);
    }
}
