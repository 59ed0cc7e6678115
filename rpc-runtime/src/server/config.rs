//! The configuration of a server, from which the server is opened.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::built_in::{BuiltInMethods, ServedQueue};
use super::control::{ControlMethods, ControlResponder, ControlledQueue, START_TIMEOUT};
use super::incoming_items::IncomingItems;
use super::job_queues::JobQueues;
use super::open_server::OpenServer;
use super::queue_consumer::{QueueConsumer, with_retries};
use super::queue_wait::{Probes, QueueWaitEstimates};
use super::reply_channel::ReplyChannel;
use super::reply_sender::ReplySender;
use super::request_handler::RequestHandler;
use super::streams::Streams;
use super::worker_identity::WorkerIdentity;
use crate::error::{Chain, ServerError};
use crate::escape::Logged;
use crate::protocol::{ReplyAddresses, ShortStr, check_queue_name};
use crate::service::middleware::HandlerLayers;
use crate::service::{Cancellations, Dispatcher, Rules, Service};
use crate::transport::{DeclareMode, RequestQueue, Subscription, Transport, restart_on_panic};

const DEFAULT_CONCURRENCY: u16 = 64;

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest prefetch of a queue for batches. A batch is held until its slowest request has
/// ended, so with few places a few slow requests would stop all batches.
const BATCH_PREFETCH: u16 = 16;

/// The parts of a broker handle that a server uses.
#[derive(Debug, Clone)]
pub(crate) struct BrokerParts {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) max_sent_bytes: usize,
    pub(crate) max_accepted_bytes: usize,
    pub(crate) app_id: Option<ShortStr>,
}

/// The configuration of a server.
pub(super) struct ServerConfig {
    pub(super) broker: BrokerParts,
    pub(super) services: Vec<(RequestQueue, Arc<dyn Service>)>,
    pub(super) concurrency: u16,
    pub(super) drain_timeout: Duration,
    pub(super) reply_addresses: ReplyAddresses,
    pub(super) batching: bool,
    pub(super) admission: bool,
    pub(super) self_description: bool,
    pub(super) worker_name: Option<String>,
    pub(super) version: Option<String>,
    pub(super) layers: HandlerLayers,
}

/// A queue, its methods, and the estimated waits in it.
type QueueConfig = (RequestQueue, Dispatcher, Estimates);

/// The cancelled calls of each queue that has methods with a reply, by the name of the queue.
type AllCancellations = HashMap<String, Arc<Cancellations>>;

/// What the queues of a server share once it is open.
struct Shared {
    rules: Rules,
    channel: Arc<ReplyChannel>,
    /// The channels on which copies of jobs are published, by the names of the request queues.
    job_channels: HashMap<String, Arc<ReplyChannel>>,
    reply_sender: ReplySender,
    probes: Arc<Probes>,
    cancellations: AllCancellations,
    streams: Arc<Streams>,
    incoming: Option<Arc<IncomingItems>>,
}

impl ServerConfig {
    /// A configuration without services.
    pub(super) fn new(broker: BrokerParts) -> Self {
        Self {
            broker,
            services: Vec::new(),
            concurrency: DEFAULT_CONCURRENCY,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            reply_addresses: ReplyAddresses::default(),
            batching: true,
            admission: true,
            self_description: true,
            worker_name: None,
            version: None,
            layers: HandlerLayers::default(),
        }
    }

    /// Declares the queues and subscribes to them, and starts all tasks except those of the
    /// consumers. Once it is told to stop, it subscribes to no further request queue, and waits for
    /// nothing but the answer to a subscription that has begun. It returns what is open by then.
    pub(super) async fn open(self, stop: &CancellationToken) -> Result<OpenServer, ServerError> {
        let mut probes = Probes::new();
        let with_estimates = |(queue, dispatcher)| {
            let estimates = Estimates::of(&queue, self.admission, &mut probes);
            (queue, dispatcher, estimates)
        };
        let mut queues: Vec<QueueConfig> = self.queues()?.into_iter().map(with_estimates).collect();
        let has_replies = |(_, dispatcher, _): &&QueueConfig| dispatcher.has_replies();
        let cancellations: AllCancellations = (queues.iter().filter(has_replies))
            .map(|(queue, ..)| (queue.name().to_owned(), Arc::default()))
            .collect();
        let identity = Arc::new(self.identity());
        let streams = Arc::new(Streams::new(&identity));
        let has_incoming = queues.iter().any(|(_, dispatcher, _)| dispatcher.has_incoming());
        let incoming = if has_incoming {
            IncomingItems::new(&identity, self.broker.max_accepted_bytes).map(Arc::new)
        } else {
            None
        };
        let control = self.control_methods(&mut queues, &identity, &cancellations, &streams);
        // Queues that the server does not declare may not exist, so they come first. If one of them
        // fails after the server has subscribed to another queue, requests of the other queue are
        // redelivered although they did not run.
        queues.sort_by_key(|(queue, ..)| queue.declare_mode() == DeclareMode::Active);
        let transport = &self.broker.transport;
        if let Some(reason) = transport.status().end_reason() {
            return Err(reason.into());
        }
        let runtime = transport.runtime();
        let mut reply_tasks = Vec::new();
        let mut open_channel = || {
            let (channel, keep_open) = ReplyChannel::new(Arc::clone(transport));
            reply_tasks.push(AbortOnDropHandle::new(runtime.spawn(keep_open)));
            Arc::new(channel)
        };
        let has_jobs = |(_, dispatcher, _): &&QueueConfig| dispatcher.jobs().next().is_some();
        let channel = open_channel();
        let job_channels: HashMap<_, _> = (queues.iter().filter(has_jobs))
            .map(|(queue, ..)| (queue.name().to_owned(), open_channel()))
            .collect();
        let (reply_sender, sending) = ReplySender::new(Arc::clone(&channel), self.broker.max_sent_bytes);
        reply_tasks.push(AbortOnDropHandle::new(runtime.spawn(sending)));
        stop.run_until_cancelled(channel.wait_ready()).await.transpose()?;
        // All queues are declared before the first subscription, so that a queue that the broker
        // refuses causes no redeliveries either.
        let job_queues = queues.iter().filter(has_jobs).flat_map(|(queue, dispatcher, _)| {
            JobQueues::to_declare_at_start(queue, dispatcher.jobs().filter_map(|job| job.retry))
        });
        let job_queues: Vec<_> = job_queues.collect();
        for queue in queues.iter().map(|(queue, ..)| queue).chain(&job_queues) {
            let declaring = with_retries(queue.name(), || transport.declare_requests(queue));
            stop.run_until_cancelled(declaring).await.transpose()?;
        }
        let shared = Shared {
            rules: self.rules(),
            channel,
            job_channels,
            reply_sender,
            probes: Arc::new(probes),
            cancellations,
            streams,
            incoming,
        };
        // The responder starts after the queues are declared, because the queues of a worker that
        // can be reached must exist. It starts before the first subscription, because requests that
        // are delivered before this returns have to wait.
        let mut responder = control.map(|methods| {
            let (rules, channel) = (&shared.rules, &shared.channel);
            ControlResponder::start(transport, methods, rules, channel, self.drain_timeout)
        });
        if let Some(responder) = &mut responder {
            stop.run_until_cancelled(responder.started()).await;
        }
        if let Some(incoming) = &shared.incoming {
            let (receiving, first_attempt) = incoming.receive_all(transport);
            reply_tasks.push(AbortOnDropHandle::new(runtime.spawn(receiving)));
            // The server starts even if it cannot receive items yet.
            let started = timeout(START_TIMEOUT, first_attempt);
            let _ = stop.run_until_cancelled(started).await;
        }
        let mut consumers = Vec::new();
        let mut names = Vec::new();
        for config in queues {
            if stop.is_cancelled() {
                break;
            }
            let name = config.0.name().to_owned();
            let subscribed = self.subscribe(config, &shared, stop, &mut consumers);
            if subscribed.await?.is_break() {
                break;
            }
            names.push(name);
        }
        let (probes, transport) = (shared.probes, Arc::clone(transport));
        let probing = async move { restart_on_panic("probes", || probes.run(&transport)).await };
        let probe_task = AbortOnDropHandle::new(runtime.spawn(probing));
        tracing::info!(queues = ?names, concurrency = self.concurrency, "serving");
        Ok(OpenServer {
            consumers,
            responder,
            queues: names,
            drain_timeout: self.drain_timeout,
            reply_tasks,
            probe_task,
            transport: self.broker.transport,
        })
    }

    /// Subscribes to a queue and to its queue for batches, and adds their consumers to `consumers`.
    /// Returns [`Break`](ControlFlow::Break) if it is told to stop before.
    ///
    /// If the queue for batches is refused, or batching is off, its consumer is added without a
    /// subscription, and only if the queue has one-way methods.
    async fn subscribe(
        &self,
        (queue, dispatcher, estimates): QueueConfig,
        shared: &Shared,
        stop: &CancellationToken,
        consumers: &mut Vec<(QueueConsumer, Option<Subscription>)>,
    ) -> Result<ControlFlow<()>, ServerError> {
        let name = queue.name().to_owned();
        let rules = Rules {
            max_deliveries: queue.max_deliveries(),
            is_classic: queue.is_classic() && queue.declare_mode() == DeclareMode::Active,
            ..shared.rules.clone()
        };
        let has_oneway = dispatcher.has_oneway();
        let jobs = shared.job_channels.get(&name).map(|channel| {
            let transport = Arc::downgrade(&self.broker.transport);
            JobQueues::new(&queue, transport, Arc::clone(channel))
        });
        let handler = RequestHandler::new(
            name.clone(),
            dispatcher,
            rules,
            Arc::clone(&shared.channel),
            shared.reply_sender.clone(),
            self.concurrency,
            Arc::clone(&shared.probes),
        );
        let cancellations = shared.cancellations.get(&name).cloned().unwrap_or_default();
        let handler = handler.with_streams(Arc::clone(&shared.streams));
        let handler = handler.with_incoming(shared.incoming.clone());
        let handler = Arc::new(handler.with_jobs(jobs).with_cancellations(cancellations));
        let consumer = |queue, prefetch, estimates| {
            let transport = Arc::clone(&self.broker.transport);
            QueueConsumer::new(transport, queue, prefetch, Arc::clone(&handler), estimates)
        };
        let batch_queue = queue.batch_queue().filter(|_| self.batching);
        // Even if this worker takes no batches, earlier or other workers may have declared a queue
        // for batches. One-way requests may be left in it, and callers that have not heard from
        // this worker may send more.
        let earlier_batch_queue = queue.earlier_batch_queue().filter(|_| has_oneway);
        let single = consumer(queue, self.concurrency, estimates.single);
        let Some(subscription) = single.open(stop).await? else {
            return Ok(ControlFlow::Break(()));
        };
        consumers.push((single, Some(subscription)));
        let prefetch = self.concurrency.min(BATCH_PREFETCH);
        let batch_consumer = |queue| consumer(queue, prefetch, estimates.batches).for_batches(!has_oneway);
        let Some(batch_queue) = batch_queue else {
            if let Some(earlier) = earlier_batch_queue {
                // The queue may not exist yet. The consumer waits for it.
                handler.pause_batches();
                consumers.push((batch_consumer(earlier), None));
            }
            return Ok(ControlFlow::Continue(()));
        };
        let batches = batch_consumer(batch_queue);
        let subscription = match batches.open(stop).await {
            Ok(Some(subscription)) => Some(subscription),
            Ok(None) => return Ok(ControlFlow::Break(())),
            Err(error) if error.is_handle_ended() => return Err(error.into()),
            // The user may lack permissions for the queue, it may exist with other arguments, or
            // its node may be down.
            Err(error) => {
                tracing::info!(
                    queue = name,
                    error = %Logged(Chain(&error)),
                    "accepting single requests only: cannot consume from the queue for batches"
                );
                if !has_oneway {
                    return Ok(ControlFlow::Continue(()));
                }
                // One-way requests may wait in it, which nobody sends again, so the consumer tries
                // again.
                None
            }
        };
        handler.advise_batches();
        if subscription.is_none() {
            handler.pause_batches();
        }
        consumers.push((batches, subscription));
        Ok(ControlFlow::Continue(()))
    }

    /// The rules for broadcasts and discovery requests, from which those of request queues differ
    /// in `max_deliveries` and `is_classic`.
    fn rules(&self) -> Rules {
        Rules {
            reply_addresses: self.reply_addresses.clone(),
            max_accepted_bytes: self.broker.max_accepted_bytes,
            max_sent_bytes: self.broker.max_sent_bytes,
            // A redelivered one does not run.
            max_deliveries: 0,
            // Only matters for more deliveries.
            is_classic: false,
            admission: self.admission,
            layers_may_answer: !self.layers.is_empty(),
        }
    }

    /// Returns each queue once, with the methods that are served on it.
    ///
    /// # Errors
    ///
    /// Returns an error if the name of a queue is invalid, if the name of a method is reserved, if
    /// a broadcast is `idempotent` or the default method, if services or queues conflict, or if
    /// there is no service.
    fn queues(&self) -> Result<Vec<(RequestQueue, Dispatcher)>, ServerError> {
        let behind_layers = self.layers.service_wrapper();
        let mut queues: Vec<(RequestQueue, Dispatcher)> = Vec::new();
        for (queue, service) in &self.services {
            let name = queue.name();
            check_queue_name(name).map_err(|source| ServerError::InvalidQueue {
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
            let service = Arc::clone(service);
            queues[position].1.add(behind_layers(service), name)?;
        }
        if queues.is_empty() {
            return Err(ServerError::NoService);
        }
        for (queue, dispatcher) in &queues {
            if dispatcher.jobs().next().is_some() {
                JobQueues::check_name(queue.name()).map_err(|source| ServerError::InvalidQueue {
                    queue: queue.name().to_owned(),
                    source,
                })?;
            }
        }
        Ok(queues)
    }

    /// Takes the broadcasts from each queue. If the server describes itself, adds the built-in
    /// methods to each queue. Returns what is handled through the control exchange, or `None` if
    /// that is nothing.
    fn control_methods(
        &self,
        queues: &mut [QueueConfig],
        identity: &Arc<WorkerIdentity>,
        cancellations: &AllCancellations,
        streams: &Arc<Streams>,
    ) -> Option<ControlMethods> {
        let has_streams = queues.iter().any(|(_, dispatcher, _)| dispatcher.has_streams());
        let controlled = queues.iter_mut().filter_map(|(queue, dispatcher, _)| {
            Some(ControlledQueue {
                // The name was checked.
                name: ShortStr::new(queue.name()).ok()?,
                broadcasts: dispatcher.take_broadcasts(),
                cancellations: cancellations.get(queue.name()).cloned(),
            })
        });
        let controlled = controlled.collect();
        let discovery = self.self_description.then(|| self.add_built_in(identity, queues));
        let methods = ControlMethods {
            identity: Arc::clone(identity),
            streams: has_streams.then(|| Arc::clone(streams)),
            discovery,
            queues: controlled,
        };
        (!methods.is_empty()).then_some(methods)
    }

    fn identity(&self) -> WorkerIdentity {
        let app_id = self
            .broker
            .app_id
            .as_ref()
            .map(|app_id| app_id.as_str().to_owned());
        WorkerIdentity::new(self.worker_name.clone(), app_id, self.version.clone())
    }

    /// Adds the built-in methods to each queue. Returns the ones that describe all queues.
    fn add_built_in(&self, identity: &Arc<WorkerIdentity>, queues: &mut [QueueConfig]) -> Arc<dyn Service> {
        // A separate instance of the layers: the built-in methods must not wait for a limit that
        // the other methods have reached.
        let behind_layers = self.layers.service_wrapper();
        let mut served = Vec::with_capacity(queues.len());
        for (queue, dispatcher, estimates) in queues {
            let queue = ServedQueue::new(queue.name(), dispatcher.served(), estimates.all());
            let queue = Arc::new(queue);
            let methods = BuiltInMethods::of_queue(identity, &queue);
            dispatcher.add_built_in(&behind_layers(Arc::new(methods)));
            served.push(queue);
        }
        behind_layers(Arc::new(BuiltInMethods::of_worker(identity, served)))
    }
}

/// The estimated waits in a queue and in its queue for batches. `None` if they are not measured, or
/// if there is no queue for batches.
#[derive(Default)]
struct Estimates {
    single: Option<Arc<QueueWaitEstimates>>,
    batches: Option<Arc<QueueWaitEstimates>>,
}

impl Estimates {
    /// Adds the queue and its queue for batches to those that `probes` measures, if `is_measured`.
    fn of(queue: &RequestQueue, is_measured: bool, probes: &mut Probes) -> Self {
        if !is_measured {
            return Self::default();
        }
        Self {
            single: Some(probes.add(queue.name())),
            batches: queue.batch_queue().map(|queue| probes.add(queue.name())),
        }
    }

    fn all(&self) -> Vec<Arc<QueueWaitEstimates>> {
        self.single.iter().chain(&self.batches).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::protocol::{Message, PROBE_TYPE};
    use crate::transport::memory::{InProcessBroker, MemoryTransport};
    use crate::transport::{Depth, Outgoing};
    use crate::{Incoming, service};

    #[service(queue = "calls")]
    trait Calls {
        async fn call(&self);
    }

    #[service(queue = "jobs")]
    trait Jobs {
        #[rpc(oneway, idempotent)]
        async fn perform(&self);
    }

    #[service(queue = "uploads")]
    trait Uploads {
        async fn upload(&self, numbers: Incoming<u64>);
    }

    struct Idle;

    impl Calls for Idle {
        async fn call(&self) {}
    }

    impl Jobs for Idle {
        async fn perform(&self) {}
    }

    impl Uploads for Idle {
        async fn upload(&self, _: Incoming<u64>) {}
    }

    /// A caller ends a stream that it sends or reads no longer.
    #[tokio::test]
    async fn a_worker_that_receives_streams_learns_that_nobody_sends_them() {
        let handles_streams = async |service: Arc<dyn Service>| {
            let (_, mut config) = config_of_jobs(false).await;
            config.services = vec![(RequestQueue::new("q"), service)];
            let queues = config.queues().unwrap().into_iter();
            let mut queues: Vec<QueueConfig> = queues
                .map(|(queue, dispatcher)| (queue, dispatcher, Estimates::default()))
                .collect();
            let identity = Arc::new(config.identity());
            let streams = Arc::new(Streams::new(&identity));
            let methods = config.control_methods(&mut queues, &identity, &HashMap::new(), &streams);
            methods.unwrap().streams.is_some()
        };
        let uploads: Arc<dyn Service> = Arc::new(UploadsServer::new(Idle));
        let calls: Arc<dyn Service> = Arc::new(CallsServer::new(Idle));
        assert!(handles_streams(uploads).await && !handles_streams(calls).await);
    }

    /// Otherwise, a queue that takes no copies would delay replies and the jobs of other queues.
    #[tokio::test]
    async fn a_server_opens_another_channel_for_the_copies_of_each_queue() {
        let tasks_of = async |services: Vec<(RequestQueue, Arc<dyn Service>)>| {
            let mut config = ServerConfig::new(BrokerParts {
                transport: Arc::new(MemoryTransport::new(&InProcessBroker::new())),
                max_sent_bytes: 1000,
                max_accepted_bytes: 1000,
                app_id: None,
            });
            config.services = services;
            let server = config.open(&CancellationToken::new()).await.unwrap();
            server.reply_tasks.len()
        };
        let calls = || (RequestQueue::new("calls"), Arc::new(CallsServer::new(Idle)) as _);
        let jobs = |queue: &str| (RequestQueue::new(queue), Arc::new(JobsServer::new(Idle)) as _);
        // A task for each channel, and one that sends replies.
        assert_eq!(tasks_of(vec![calls()]).await, 2);
        assert_eq!(tasks_of(vec![calls(), jobs("jobs")]).await, 3);
        assert_eq!(tasks_of(vec![calls(), jobs("jobs"), jobs("more")]).await, 4);
    }

    async fn config_of_jobs(batching: bool) -> (Arc<dyn Transport>, ServerConfig) {
        let transport: Arc<dyn Transport> = Arc::new(MemoryTransport::new(&InProcessBroker::new()));
        let mut config = ServerConfig::new(BrokerParts {
            transport: Arc::clone(&transport),
            max_sent_bytes: 1000,
            max_accepted_bytes: 1000,
            app_id: None,
        });
        config.batching = batching;
        config.services = vec![(RequestQueue::new("jobs"), Arc::new(JobsServer::new(Idle)) as _)];
        (transport, config)
    }

    async fn depth(transport: &Arc<dyn Transport>) -> Option<Depth> {
        transport.depth(&ShortStr::from_static("jobs.batch")).await
    }

    /// Its callers confirm jobs to that queue until they notice that the other worker is gone.
    #[tokio::test(start_paused = true)]
    async fn a_worker_with_batching_off_serves_a_queue_for_batches_that_appears_later() {
        let (transport, config) = config_of_jobs(false).await;
        let server = config.open(&CancellationToken::new()).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.run(async move { drop(stopped.await) }));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(depth(&transport).await, None, "it is not declared");
        let of_others = RequestQueue::new("jobs").batch_queue().unwrap();
        transport.declare_requests(&of_others).await.unwrap();
        sleep(Duration::from_secs(600)).await;
        assert_eq!(depth(&transport).await.unwrap().consumers, 1);
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopping_worker_takes_late_batches_from_a_queue_that_stays() {
        let (transport, config) = config_of_jobs(true).await;
        let server = config.open(&CancellationToken::new()).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.run(async move { drop(stopped.await) }));
        let publisher = transport.open_publisher().await.unwrap();
        let send = || {
            publisher.publish(Outgoing {
                queue: ShortStr::from_static("jobs.batch"),
                mandatory: true,
                message: Message::default(),
                send_token: None,
            })
        };
        send().await;
        sleep(Duration::from_millis(1)).await;
        stop.send(()).unwrap();
        sleep(Duration::from_millis(50)).await;
        send().await;
        serving.await.unwrap().unwrap();
        assert_eq!(depth(&transport).await.unwrap().messages, 0);
    }

    /// Other workers may send as many probes as they like.
    #[tokio::test(start_paused = true)]
    async fn probes_do_not_delay_the_stop_of_a_worker() {
        let (transport, config) = config_of_jobs(true).await;
        let server = config.open(&CancellationToken::new()).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.run(async move { drop(stopped.await) }));
        let publisher = transport.open_publisher().await.unwrap();
        let send = async |message| {
            let outgoing = Outgoing {
                queue: ShortStr::from_static("jobs.batch"),
                mandatory: true,
                message,
                send_token: None,
            };
            publisher.publish(outgoing).await
        };
        send(Message::default()).await;
        sleep(Duration::from_millis(1)).await;
        let probing = async {
            loop {
                let mut probe = Message::default();
                probe.properties.kind = Some(ShortStr::from_static(PROBE_TYPE));
                send(probe).await;
                sleep(Duration::from_millis(20)).await;
            }
        };
        let stopped_at = Instant::now();
        stop.send(()).unwrap();
        tokio::select! {
            ended = serving => ended.unwrap().unwrap(),
            () = probing => unreachable!("it has no end"),
        }
        let took = stopped_at.elapsed();
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
}
