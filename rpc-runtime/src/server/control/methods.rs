//! What a worker handles through the control exchange.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::{DISCOVERY_KEY, ShortStr};
use crate::server::streams::Streams;
use crate::server::worker_identity::WorkerIdentity;
use crate::service::{Cancellations, Dispatcher, Executor, RequestLog, RequestSource, Rules, Service};

/// What a worker handles through the control exchange.
pub(in crate::server) struct ControlMethods {
    pub(in crate::server) identity: Arc<WorkerIdentity>,
    /// The streams that callers grant credit to, or end. `None` if no method has one.
    pub(in crate::server) streams: Option<Arc<Streams>>,
    /// The built-in methods that describe all queues. `None` without self-description.
    pub(in crate::server) discovery: Option<Arc<dyn Service>>,
    pub(in crate::server) queues: Vec<ControlledQueue>,
}

/// What a worker handles through the control exchange for one request queue.
pub(in crate::server) struct ControlledQueue {
    pub(in crate::server) name: ShortStr,
    pub(in crate::server) broadcasts: Dispatcher,
    /// The cancelled calls. `None` if no method of the queue has a reply.
    pub(in crate::server) cancellations: Option<Arc<Cancellations>>,
}

impl ControlMethods {
    /// Whether there is nothing to handle.
    pub(in crate::server) fn is_empty(&self) -> bool {
        let has_none = |queue: &ControlledQueue| queue.broadcasts.is_empty() && queue.cancellations.is_none();
        self.streams.is_none() && self.discovery.is_none() && self.queues.iter().all(has_none)
    }

    /// Returns the cancelled calls of each queue.
    pub(super) fn cancellations(&self) -> HashMap<ShortStr, Arc<Cancellations>> {
        let of_queue = |queue: &ControlledQueue| Some((queue.name.clone(), queue.cancellations.clone()?));
        self.queues.iter().filter_map(of_queue).collect()
    }

    /// Returns the executor of the requests with each routing key. A queue without broadcasts has
    /// one too, which refuses all requests and says why.
    pub(super) fn executors(self, rules: &Rules) -> HashMap<ShortStr, Arc<Executor>> {
        let executor = |dispatcher, name: &str, source| {
            let log = RequestLog::new(name);
            Arc::new(Executor::new(dispatcher, rules.clone(), log, source))
        };
        let queues = self.queues.into_iter().map(|queue| {
            let executor = executor(queue.broadcasts, queue.name.as_str(), RequestSource::Queue);
            (queue.name, executor)
        });
        let mut executors: HashMap<_, _> = queues.collect();
        if let Some(service) = self.discovery {
            let mut dispatcher = Dispatcher::default();
            dispatcher.add_built_in(&service);
            let discovery = executor(dispatcher, DISCOVERY_KEY, RequestSource::Discovery);
            executors.insert(self.identity.id(), Arc::clone(&discovery));
            executors.insert(ShortStr::from_static(DISCOVERY_KEY), discovery);
        }
        executors
    }
}
