//! What a server is to do, and the server that does it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::beacon::LitBeacon;
use super::built_in::{BuiltIn, ServedQueue};
use super::identity::Identity;
use super::line::{self, Ended, Line};
use super::outlet::Outlet;
use super::post::Post;
use super::queue_delay::{Probes, QueueDelays};
use super::serve::Desk;
use crate::error::{BrokerError, Chain, ServerError};
use crate::escape::Logged;
use crate::protocol::{ReplyAddresses, ShortStr, queue_name};
use crate::service::middleware::{Around, HandlerLayer, layered_service};
use crate::service::{Dispatcher, Rules, Service};
use crate::transport::{Declare, RequestQueue, Subscription, Transport, supervised};

const DEFAULT_CONCURRENCY: u16 = 64;

const DEFAULT_DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How many messages of batched calls a queue's worker has at a time: one at work, and others on their way.
const BATCHED_PREFETCH: u16 = 4;

/// The broker handle that a server runs on.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) max_sent_bytes: usize,
    pub(crate) max_accepted_bytes: usize,
    pub(crate) app_id: Option<ShortStr>,
}

/// What a server is to do, whatever layers it has.
pub(super) struct Plan {
    pub(super) host: Host,
    pub(super) served: Vec<(RequestQueue, Arc<dyn Service>)>,
    pub(super) concurrency: u16,
    pub(super) drain_limit: Duration,
    pub(super) reply_addresses: ReplyAddresses,
    pub(super) batching: bool,
    pub(super) admission: bool,
    pub(super) self_description: bool,
    pub(super) worker_name: Option<String>,
    pub(super) version: Option<String>,
    /// Puts a service behind the layers.
    pub(super) around: Option<Layers>,
}

impl Plan {
    /// Nothing to serve yet.
    pub(super) fn new(host: Host) -> Self {
        Self {
            host,
            served: Vec::new(),
            concurrency: DEFAULT_CONCURRENCY,
            drain_limit: DEFAULT_DRAIN_LIMIT,
            reply_addresses: ReplyAddresses::default(),
            batching: true,
            admission: true,
            self_description: true,
            worker_name: None,
            version: None,
            around: None,
        }
    }

    /// Declares the queues and consumes from them; from none any more once it is told to stop.
    pub(super) async fn open(self, stop: &CancellationToken) -> Result<OpenServer, ServerError> {
        let mut probes = Probes::new();
        let measured = |(queue, dispatcher)| {
            let delays = Delays::of(&queue, self.admission, &mut probes);
            (queue, dispatcher, delays)
        };
        let mut queues: Vec<_> = self.queues()?.into_iter().map(measured).collect();
        let probes = Arc::new(probes);
        let built_in = self.self_description.then(|| self.add_built_in(&mut queues));
        // Those that may not exist come first: what a consumer was sent before another one fails comes back marked
        // redelivered, without having been run.
        queues.sort_by_key(|(queue, ..)| queue.declare() == Declare::Active);
        let rules = Rules {
            reply_addresses: self.reply_addresses,
            max_accepted_bytes: self.host.max_accepted_bytes,
            max_sent_bytes: self.host.max_sent_bytes,
            max_deliveries: 0,
            admission: self.admission,
        };
        let transport = &self.host.transport;
        if let Some(over) = transport.status().over() {
            return Err(over.into());
        }
        let runtime = transport.runtime();
        let (outlet, keep_outlet) = Outlet::new(Arc::clone(transport));
        let outlet = Arc::new(outlet);
        let outlet_task = AbortOnDropHandle::new(runtime.spawn(keep_outlet));
        let (post, emptying) = Post::new(Arc::clone(&outlet));
        let post_task = AbortOnDropHandle::new(runtime.spawn(emptying));
        stop.run_until_cancelled(outlet.ready()).await.transpose()?;

        // All are declared before one is consumed: what a server was sent that cannot start comes back marked redelivered,
        // without having been run.
        for (queue, ..) in &queues {
            let declaring = line::patiently(queue.name(), || transport.declare_requests(queue));
            stop.run_until_cancelled(declaring).await.transpose()?;
        }
        // Who finds the worker finds its queues; and once it serves, nothing else is waited for.
        let light = |built_in| LitBeacon::light(transport, &built_in, rules.clone(), &outlet);
        let mut beacon = built_in.map(light);
        if let Some(beacon) = &mut beacon {
            stop.run_until_cancelled(beacon.lit()).await;
        }
        let mut lines = Vec::new();
        let mut names = Vec::new();
        for (queue, dispatcher, delays) in queues {
            if stop.is_cancelled() {
                break;
            }
            let name = queue.name().to_owned();
            let rules = Rules {
                max_deliveries: queue.max_deliveries(),
                ..rules.clone()
            };
            let desk = Arc::new(Desk::new(
                name.clone(),
                dispatcher,
                rules,
                Arc::clone(&outlet),
                post.clone(),
                self.concurrency,
                Arc::clone(&probes),
            ));
            let line = |queue, prefetch, delays| {
                Line::new(Arc::clone(transport), queue, prefetch, Arc::clone(&desk), delays)
            };
            let batched = queue.batched().filter(|_| self.batching);
            let alone = line(queue, self.concurrency, delays.alone);
            let Some(subscription) = alone.open(stop).await? else {
                break;
            };
            lines.push((alone, subscription));
            if let Some(queue) = batched {
                let prefetch = self.concurrency.min(BATCHED_PREFETCH);
                let batched = line(queue, prefetch, delays.batched).of_batched();
                match batched.open(stop).await {
                    Ok(Some(subscription)) => {
                        desk.take_batched();
                        lines.push((batched, subscription));
                    }
                    Ok(None) => break,
                    Err(error) if error.is_of_ended_handle() => return Err(error.into()),
                    // It may not be allowed to be declared, or be made by somebody who did not know of it.
                    Err(error) => tracing::info!(
                        queue = name,
                        error = %Logged(Chain(&error)),
                        "calls are taken one by one: there is no queue for batched ones"
                    ),
                }
            }
            names.push(name);
        }
        let sender = Arc::clone(transport);
        let probing = async move { supervised("queue delay", || probes.send(&sender)).await };
        let probes_task = AbortOnDropHandle::new(runtime.spawn(probing));
        tracing::info!(queues = ?names, concurrency = self.concurrency, "serving");
        Ok(OpenServer {
            lines,
            beacon,
            queues: names,
            drain_limit: self.drain_limit,
            _outlet: outlet_task,
            _post: post_task,
            probes: probes_task,
            transport: self.host.transport,
        })
    }

    /// Each queue once, with the methods that are served on it.
    fn queues(&self) -> Result<Vec<(RequestQueue, Dispatcher)>, ServerError> {
        let mut queues: Vec<(RequestQueue, Dispatcher)> = Vec::new();
        for (queue, service) in &self.served {
            let name = queue.name();
            queue_name(name).map_err(|source| ServerError::InvalidQueue {
                queue: name.to_owned(),
                source,
            })?;
            let position = match queues.iter().position(|(known, _)| known.name() == name) {
                Some(position) if queues[position].0 == *queue => position,
                Some(_) => {
                    return Err(ServerError::ConflictingQueue {
                        queue: name.to_owned(),
                    });
                }
                None => {
                    queues.push((queue.clone(), Dispatcher::default()));
                    queues.len() - 1
                }
            };
            queues[position].1.add(self.behind(Arc::clone(service)), name)?;
        }
        match queues.is_empty() {
            true => Err(ServerError::NoService),
            false => Ok(queues),
        }
    }

    /// The service, behind the layers.
    fn behind(&self, service: Arc<dyn Service>) -> Arc<dyn Service> {
        match &self.around {
            Some(layers) => (layers.of_methods)(service),
            None => service,
        }
    }

    /// Built-in methods, behind layers of their own.
    fn built_in_behind(&self, methods: BuiltIn) -> Arc<dyn Service> {
        match &self.around {
            Some(layers) => (layers.of_built_in)(Arc::new(methods)),
            None => Arc::new(methods),
        }
    }

    /// Adds the built-in methods to each queue. Answers with those that tell of all of them.
    fn add_built_in(&self, queues: &mut [(RequestQueue, Dispatcher, Delays)]) -> Arc<dyn Service> {
        let app_id = self.host.app_id.as_ref().map(|app_id| app_id.as_str().to_owned());
        let identity = Arc::new(Identity::new(
            self.worker_name.clone(),
            app_id,
            self.version.clone(),
        ));
        let mut served = Vec::with_capacity(queues.len());
        for (queue, dispatcher, delays) in queues {
            let queue = ServedQueue::new(queue.name(), dispatcher.hosted(), delays.all());
            let queue = Arc::new(queue);
            let built_in = BuiltIn::of_queue(&identity, &queue);
            dispatcher.add_built_in(&self.built_in_behind(built_in));
            served.push(queue);
        }
        self.built_in_behind(BuiltIn::of_worker(&identity, served))
    }
}

/// How long requests wait, as far as that is measured.
#[derive(Default)]
struct Delays {
    alone: Option<Arc<QueueDelays>>,
    batched: Option<Arc<QueueDelays>>,
}

impl Delays {
    /// Where the waits in a queue and in the queue for its batches are measured.
    fn of(queue: &RequestQueue, is_measured: bool, probes: &mut Probes) -> Self {
        if !is_measured {
            return Self::default();
        }
        Self {
            alone: Some(probes.add(queue.name())),
            batched: queue.batched().map(|queue| probes.add(queue.name())),
        }
    }

    fn all(&self) -> Vec<Arc<QueueDelays>> {
        self.alone.iter().chain(&self.batched).cloned().collect()
    }
}

/// The layers around a server's methods.
pub(super) struct Layers {
    of_methods: Around,
    /// Made once more of the same layers, so that a worker whose methods are at their limits still says how it is.
    of_built_in: Around,
}

impl Layers {
    pub(super) fn of<L: HandlerLayer>(layer: &L) -> Self {
        Self {
            of_methods: layered_service(layer),
            of_built_in: layered_service(layer),
        }
    }
}

/// A server that consumes from its queues.
pub(super) struct OpenServer {
    lines: Vec<(Line, Subscription)>,
    /// There where the server describes itself.
    beacon: Option<LitBeacon>,
    queues: Vec<String>,
    drain_limit: Duration,
    _outlet: AbortOnDropHandle<()>,
    _post: AbortOnDropHandle<()>,
    probes: AbortOnDropHandle<()>,
    /// Keeps the connection if the user drops every handle.
    transport: Arc<dyn Transport>,
}

impl OpenServer {
    pub(super) async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let queues = self.queues;
        let stop = CancellationToken::new();
        let runtime = self.transport.runtime();
        let mut lines = JoinSet::new();
        for (line, subscription) in self.lines {
            lines.spawn_on(line.run(subscription, stop.clone(), self.drain_limit), &runtime);
        }
        // A line ends by itself only where all do: the handle was closed.
        let first = tokio::select! {
            biased;
            () = shutdown => None,
            ended = lines.join_next() => ended,
        };
        stop.cancel();
        // What they would measure does not matter any more, and none is to be left in a queue.
        drop(self.probes);
        let beacon = self.beacon;
        let putting_out = AbortOnDropHandle::new(runtime.spawn(async {
            if let Some(beacon) = beacon {
                beacon.put_out().await;
            }
        }));
        let mut all = Ended {
            unfinished: 0,
            reason: None,
        };
        let mut next = first;
        while let Some(ended) = match next.take() {
            None => lines.join_next().await,
            first => first,
        } {
            match ended {
                Ok(ended) => {
                    all.unfinished += ended.unfinished;
                    all.reason = all.reason.or(ended.reason);
                }
                // A line goes on after a panic, but not after one that tells of it.
                Err(error) if error.is_panic() => {
                    all.reason.get_or_insert(BrokerError::Panicked {
                        task: "request queue",
                    });
                }
                Err(_) => {
                    all.reason.get_or_insert(BrokerError::RuntimeEnded);
                }
            }
        }
        // Ended in one way or another.
        let _ = putting_out.await;
        let limit = self.drain_limit;
        let ended = match all {
            Ended {
                reason: Some(reason), ..
            } => Err(ServerError::Broker(reason)),
            Ended { unfinished: 0, .. } => Ok(()),
            Ended { unfinished, .. } => Err(ServerError::DrainTimedOut { unfinished, limit }),
        };
        match &ended {
            Ok(()) => tracing::info!(?queues, "stopped"),
            Err(error) => tracing::error!(?queues, error = %Logged(Chain(error)), "server ended"),
        }
        ended
    }
}
