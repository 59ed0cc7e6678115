//! The result of discovery: workers, and their services.

use crate::describe::{ServiceDescription, Worker, WorkerDescription};
use crate::protocol::Fault;

/// The answers of all workers; see [`Discover`](super::Discover).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Discovered<T> {
    /// One answer from each worker, ordered by host, name and process id.
    pub workers: Vec<T>,
    /// The faults of workers that refused to answer, for example because this caller is not
    /// authorized. At most a hundred are kept.
    pub refusals: Vec<Fault>,
    /// Whether no answer is known to be missing. It is `false` if there were too many answers or
    /// unrelated messages, an answer was too large or could not be decoded, the timeout came before
    /// the window had passed without an answer, or a worker's queue did not accept the request.
    pub is_complete: bool,
}

/// A service on a queue.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FoundService<'a> {
    /// The service's name.
    pub name: &'a str,
    /// The request queue.
    pub queue: &'a str,
    /// The workers that serve it, in the order of [`Discovered::workers`].
    pub workers: Vec<&'a Worker>,
    /// The distinct descriptions of the service, the most frequent first. There is more than one
    /// while workers of different versions serve the queue, for example during a rollout.
    pub descriptions: Vec<&'a ServiceDescription>,
}

impl Discovered<WorkerDescription> {
    /// Returns the services, ordered by name and queue.
    #[must_use]
    pub fn services(&self) -> Vec<FoundService<'_>> {
        let mut services = std::collections::BTreeMap::<_, Vec<(&Worker, &ServiceDescription)>>::new();
        for WorkerDescription { worker, queues } in &self.workers {
            for queue in queues {
                for service in &queue.services {
                    let key = (service.name.as_str(), queue.queue.as_str());
                    let serving = services.entry(key).or_default();
                    // A worker counts once, however often it lists the service.
                    let is_counted = serving
                        .last()
                        .is_some_and(|(last, _)| std::ptr::eq(*last, worker));
                    if !is_counted {
                        serving.push((worker, service));
                    }
                }
            }
        }
        let found = services.into_iter().map(|((name, queue), serving)| FoundService {
            name,
            queue,
            workers: serving.iter().map(|(worker, _)| *worker).collect(),
            descriptions: distinct(serving.into_iter().map(|(_, service)| service)),
        });
        found.collect()
    }

    /// Returns the services of this name, one for each queue.
    #[must_use]
    pub fn service(&self, name: &str) -> Vec<FoundService<'_>> {
        let mut services = self.services();
        services.retain(|service| service.name == name);
        services
    }
}

/// Returns the distinct descriptions, the most frequent first.
fn distinct<'a>(all: impl Iterator<Item = &'a ServiceDescription>) -> Vec<&'a ServiceDescription> {
    let mut counted: Vec<(usize, &ServiceDescription)> = Vec::new();
    for description in all {
        match counted.iter_mut().find(|(_, known)| *known == description) {
            Some((count, _)) => *count += 1,
            None => counted.push((1, description)),
        }
    }
    // The sort is stable: equally frequent descriptions stay in the order of workers.
    counted.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    counted.into_iter().map(|(_, description)| description).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::{MethodDescription, QueueDescription};

    fn worker(id: &str, served: &[(&str, ServiceDescription)]) -> WorkerDescription {
        let queues = served.iter().map(|(queue, service)| QueueDescription {
            queue: (*queue).to_owned(),
            services: vec![service.clone()],
        });
        WorkerDescription {
            worker: Worker {
                id: id.to_owned(),
                ..Worker::default()
            },
            queues: queues.collect(),
        }
    }

    #[test]
    fn a_worker_counts_once_for_each_service() {
        let mut other = ServiceDescription::new("Store", "q");
        other.methods.push(MethodDescription::new("get"));
        let same = ServiceDescription::new("Store", "q");
        let listed = [("q", same.clone()), ("q", other.clone()), ("q", other.clone())];
        let found = Discovered {
            workers: vec![worker("a", &listed), worker("b", &listed[..1])],
            refusals: Vec::new(),
            is_complete: true,
        };
        let services = found.services();
        assert_eq!((services.len(), services[0].workers.len()), (1, 2));
        assert_eq!(services[0].descriptions, [&same]);
    }

    #[test]
    fn services_are_grouped_by_name_and_queue_with_distinct_descriptions() {
        let old = ServiceDescription::new("Store", "q");
        let mut new = old.clone();
        new.methods.push(MethodDescription::new("get"));
        let log = ServiceDescription::new("Log", "log");
        let found = Discovered {
            workers: vec![
                worker("a", &[("q", old.clone()), ("log", log.clone())]),
                worker("b", &[("q", new.clone())]),
                worker("c", &[("q", new.clone())]),
                worker("d", &[("r", old.clone())]),
            ],
            refusals: Vec::new(),
            is_complete: true,
        };
        let services = found.services();
        let names: Vec<_> = services
            .iter()
            .map(|service| (service.name, service.queue, service.workers.len()))
            .collect();
        assert_eq!(names, [("Log", "log", 1), ("Store", "q", 3), ("Store", "r", 1)]);
        assert_eq!(services[1].descriptions, [&new, &old]);
        assert_eq!(found.service("Store").len(), 2);
        assert!(found.service("Nobody").is_empty());
    }
}
