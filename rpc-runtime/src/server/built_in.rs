//! The built-in methods, by which a worker describes itself. They are served on every queue and
//! for discovery, unless [self-description](crate::Server::self_description) is off.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::queue_wait::QueueWaitEstimates;
use super::worker_identity::WorkerIdentity;
use crate::describe::{
    BUILT_IN, DESCRIBE, MethodStats, PING, QueueDescription, QueueStats, STATS, ServiceDescription,
    ServiceDescriptor, WorkerDescription, WorkerStats,
};
use crate::protocol::Fault;
use crate::service::{Answer, Invocation, ServedService, Service};

/// A queue that a worker serves, and the services on it.
pub(super) struct ServedQueue {
    name: String,
    served: Vec<ServedService>,
    /// The estimated waits in the queue and in its queue for batches. Empty if they are not
    /// measured.
    estimates: Vec<Arc<QueueWaitEstimates>>,
    /// Built on first use, because that takes some time.
    services: OnceLock<Vec<ServiceDescription>>,
}

/// The built-in methods.
pub(super) struct BuiltInMethods {
    identity: Arc<WorkerIdentity>,
    scope: Scope,
}

/// What the methods describe.
enum Scope {
    /// The queue that delivered the request.
    Queue(Arc<ServedQueue>),
    /// All queues of the worker, for discovery requests.
    Worker(Vec<Arc<ServedQueue>>),
}

impl BuiltInMethods {
    /// The methods that are served on a queue and describe it.
    pub(super) fn of_queue(identity: &Arc<WorkerIdentity>, queue: &Arc<ServedQueue>) -> Self {
        Self {
            identity: Arc::clone(identity),
            scope: Scope::Queue(Arc::clone(queue)),
        }
    }

    /// The methods that answer discovery requests.
    pub(super) fn of_worker(identity: &Arc<WorkerIdentity>, queues: Vec<Arc<ServedQueue>>) -> Self {
        Self {
            identity: Arc::clone(identity),
            scope: Scope::Worker(queues),
        }
    }

    fn queues(&self) -> &[Arc<ServedQueue>] {
        match &self.scope {
            Scope::Queue(queue) => std::slice::from_ref(queue),
            Scope::Worker(queues) => queues,
        }
    }

    fn description(&self) -> WorkerDescription {
        WorkerDescription {
            worker: self.identity.worker(),
            queues: self.queues().iter().map(|queue| queue.description()).collect(),
        }
    }

    fn stats(&self) -> WorkerStats {
        WorkerStats {
            worker: self.identity.worker(),
            queues: self.queues().iter().map(|queue| queue.stats()).collect(),
        }
    }
}

impl Service for BuiltInMethods {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &BUILT_IN
    }

    fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async move {
            // A caller that uses plain text gets a rendering for people.
            if invocation.method() == PING.name {
                let worker = self.identity.worker();
                invocation.answer_readable(&worker, || worker.to_string())
            } else if invocation.method() == DESCRIBE.name {
                let description = self.description();
                invocation.answer_readable(&description, || description.to_string())
            } else if invocation.method() == STATS.name {
                let stats = self.stats();
                invocation.answer_readable(&stats, || stats.to_string())
            } else {
                Err(Fault::unknown_method(invocation.method()))
            }
        })
    }
}

impl ServedQueue {
    pub(super) fn new(name: &str, served: &[ServedService], estimates: Vec<Arc<QueueWaitEstimates>>) -> Self {
        Self {
            name: name.to_owned(),
            served: served.to_vec(),
            estimates,
            services: OnceLock::new(),
        }
    }

    fn description(&self) -> QueueDescription {
        QueueDescription {
            queue: self.name.clone(),
            services: self.services().to_vec(),
        }
    }

    fn services(&self) -> &[ServiceDescription] {
        let describe = |served: &ServedService| {
            let mut description = served.service.description();
            // The queue it is actually served on. `serve_on` may override the service's default.
            description.queue.clone_from(&self.name);
            description
        };
        self.services
            .get_or_init(|| self.served.iter().map(describe).collect())
    }

    fn stats(&self) -> QueueStats {
        let records = self.served.iter().flat_map(|served| &served.records);
        let methods: Vec<_> = records
            .map(|record| record.stats.snapshot(record.service, record.method))
            .collect();
        let sum = |count: fn(&MethodStats) -> u64| methods.iter().map(count).sum();
        QueueStats {
            queue: self.name.clone(),
            queue_time_ns: u64::try_from(self.queue_time().as_nanos()).unwrap_or(u64::MAX),
            admitted: sum(|method| method.calls + method.in_flight),
            shed: sum(|method| method.shed),
            methods,
        }
    }

    fn queue_time(&self) -> Duration {
        let now = Instant::now();
        let times = self.estimates.iter().map(|estimates| estimates.queue_time(now));
        times.max().unwrap_or_default()
    }
}
