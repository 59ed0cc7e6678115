//! The broadcast that a client's method returns: a call that all workers run.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::super::backend::Backend;
use super::super::call::{ReadReply, change_plan};
use super::super::call_path::CallPath;
use super::super::caller::Caller;
use super::super::failures::broker_error;
use super::super::in_flight_call::InFlightCall;
use super::super::invalid_call::InvalidCall;
use super::super::plan::CallPlan;
use super::answers::Answers;
use super::gathering::GatherLimits;
use super::stream::Gather;
use super::target::GatherTarget;
use crate::describe::Worker;
use crate::error::CallError;
use crate::host::host_name;
use crate::protocol::{Executed, MAX_TIME_TO_LIVE, ShortStr, insert_user_header};
use crate::service::ResultType;

/// The default of [`Broadcast::quiet_for`].
const DEFAULT_QUIET_WINDOW: Duration = Duration::from_millis(500);

/// A call of a method that all workers of the queue run, `#[rpc(broadcast)]`.
///
/// Nothing is sent before [`send`](Self::send). Set options before it:
///
/// ```
/// # use rpc_runtime::{Broker, CallError, Server, service};
/// # use std::time::Duration;
/// #[service]
/// pub trait Cache {
///     /// Drops what is cached, and returns how many entries there were.
///     #[rpc(broadcast)]
///     async fn clear(&self, prefix: &str) -> u64;
/// }
///
/// # async fn example(cache: CacheClient) -> Result<(), CallError> {
/// let mut answers = cache
///     .clear("users/")
///     .expect_workers(3)
///     .limit(Duration::from_secs(2))
///     .send()
///     .await?;
/// while let Some((worker, dropped)) = answers.next().await {
///     println!("{}: {:?}", worker.host, dropped);
/// }
/// if answers.missing() != Some(0) {
///     println!("some workers did not answer");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Which workers run it
///
/// Those that serve the queue and are connected when the request is published. A worker that starts
/// later does not get it, and one that loses its connection meanwhile may not have run it. Each
/// worker runs a request at most once.
#[must_use = "a broadcast does nothing until it is sent"]
pub struct Broadcast<T, E = Infallible> {
    path: CallPath,
    call: Result<Arc<InFlightCall>, InvalidCall>,
    read: ReadReply<T, E>,
    expected: Option<usize>,
    quiet_window: Option<Duration>,
}

/// A broadcast of a method that returns the `Result` type `R`: [`Broadcast<T, E>`](Broadcast) for a
/// `Result<T, E>`, or for an alias of it.
pub type FallibleBroadcast<R> = Broadcast<<R as ResultType>::Ok, <R as ResultType>::Err>;

impl<T, E> Broadcast<T, E> {
    pub(crate) fn new(
        path: CallPath,
        call: Result<Arc<InFlightCall>, InvalidCall>,
        read: ReadReply<T, E>,
    ) -> Self {
        Self {
            path,
            call,
            read,
            expected: None,
            quiet_window: None,
        }
    }

    /// Sets how many workers should answer. Gathering ends with the last of them, and
    /// [`Gather::missing`] counts those that did not answer.
    ///
    /// The broker does not say how many workers get a request.
    /// [`Broker::discover`](crate::Broker::discover) tells how many serve the queue.
    pub fn expect_workers(mut self, workers: usize) -> Self {
        self.expected = Some(workers);
        self
    }

    /// Ends gathering if no worker answers for this long after the last answer.
    ///
    /// The default is half a second; none if a number of workers is
    /// [expected](Self::expect_workers). Before the first answer, only the [`limit`](Self::limit)
    /// applies, since the method may take long.
    pub fn quiet_for(mut self, window: Duration) -> Self {
        // No limit is longer.
        self.quiet_window = Some(window.min(MAX_TIME_TO_LIVE));
        self
    }

    /// Sets how long sending and gathering may take in total. Workers do not begin the method
    /// later, unless the broker held the request because it blocks publishers.
    ///
    /// The default is the method's own `timeout`, or else the client's, which is 30 seconds unless
    /// set. In a handler, gathering also ends at the handler's own deadline, unless it is
    /// [`detached`](Self::detached).
    pub fn limit(mut self, limit: Duration) -> Self {
        self.change_plan(|plan| {
            plan.timeout = limit;
            Ok(())
        });
        self
    }

    /// Detaches the broadcast from the handler that makes it, like
    /// [`Call::detached`](crate::Call::detached).
    pub fn detached(mut self) -> Self {
        self.change_plan(|plan| {
            plan.is_detached = true;
            Ok(())
        });
        self
    }

    /// Adds a header to the request, like [`Call::header`](crate::Call::header).
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.change_plan(|plan| Ok(insert_user_header(&mut plan.headers, name, value)?));
        self
    }

    fn change_plan(&mut self, change: impl FnOnce(&mut CallPlan) -> Result<(), InvalidCall>) {
        change_plan(&mut self.call, change);
    }

    /// Sends the request to all workers of the queue, through the client's layers. Returns once the
    /// broker has put it into their queues. Without a broker, runs the method and then returns.
    ///
    /// # Errors
    ///
    /// - [`CallError::NoWorkers`] if no worker of the queue can be reached, unless the client
    ///   [waits for one](crate::ClientBuilder::wait_for_server),
    /// - [`CallError::TimedOut`] if the limit passes before the request is sent, or before the
    ///   broker says what became of it: then some workers may run it,
    /// - the errors of any call that cannot be sent.
    ///
    /// It is no error if the broker refuses to confirm the request, or if the confirm is lost,
    /// because some workers may run it and answer. [`Gather::is_confirmed`] returns `false` then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take back a request that was already sent.
    pub async fn send(self) -> Result<Gather<T, E>, CallError<E>> {
        self.send_call().await.map_err(CallError::widen)
    }

    /// Sends the request like [`send`](Self::send). The error has no type of a service error.
    async fn send_call(self) -> Result<Gather<T, E>, CallError> {
        let call = self.call?;
        match self.path.backend().clone() {
            Backend::Broker(caller) => {
                let answers =
                    open_answers_and_send(caller, self.path, call, self.expected, self.quiet_window).await?;
                Ok(Gather::from_broker(answers, self.read))
            }
            Backend::InProcess(_) => {
                let answer = match self.path.call(call).await {
                    // The method has begun, so this is a missing answer, like that of a worker that
                    // does not answer in time, and no error.
                    Err(CallError::TimedOut {
                        executed: Executed::Maybe,
                        ..
                    }) => None,
                    // A fault is an answer, too, and so is a reply that cannot be read.
                    outcome @ (Ok(_) | Err(CallError::Fault(_) | CallError::BadReply { .. })) => Some((
                        this_process(),
                        outcome.map_err(CallError::widen).and_then(self.read),
                    )),
                    Err(error) => return Err(error),
                };
                Ok(Gather::in_process(answer, self.expected, self.read))
            }
        }
    }
}

/// Opens a queue for the answers, and then sends the request. Returns the answers, of which some
/// may have arrived.
async fn open_answers_and_send(
    caller: Arc<Caller>,
    path: CallPath,
    mut call: Arc<InFlightCall>,
    expected: Option<usize>,
    quiet_window: Option<Duration>,
) -> Result<Answers, CallError> {
    let time_limit = call.plan().time_limit()?;
    let opening = caller.transport().open_answers();
    let opened = timeout_at(time_limit.deadline, opening).await;
    let opened = opened.map_err(|_| caller.broadcast_timeout_error(time_limit, Executed::No))?;
    let opened = opened.map_err(|source| broker_error(source, false))?;
    let target = GatherTarget::new(opened.address, ShortStr::from_uuid(call.id()));
    let target = Arc::new(target);
    let default_quiet_window = expected.is_none().then_some(DEFAULT_QUIET_WINDOW);
    let limits = GatherLimits {
        expected,
        quiet_window: quiet_window.or(default_quiet_window),
        deadline: time_limit.deadline,
        codec: call.plan().codec,
        max_bytes: caller.max_accepted_bytes(),
    };
    let answers = Answers::new(Arc::clone(&target), limits, opened.replies, caller);
    // Always `Some`: nobody else holds a call that has not begun.
    if let Some(call) = Arc::get_mut(&mut call) {
        let plan = call.plan_mut();
        plan.destination = Arc::new(plan.destination.with_gather_target(target));
    }
    // The reply is empty. It comes once the request is published, even if the broker does not
    // confirm it. The answers go to the queue above.
    path.call_within(call, time_limit).await?;
    Ok(answers)
}

/// The identity of a service in this process, which is no worker.
fn this_process() -> Worker {
    Worker {
        id: "in_process".to_owned(),
        host: host_name().to_owned(),
        pid: std::process::id(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Worker::default()
    }
}

impl<T, E> fmt::Debug for Broadcast<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut broadcast = f.debug_struct("Broadcast");
        match &self.call {
            Ok(call) => broadcast.field("plan", call.plan()),
            Err(_) => broadcast.field("state", &"not sendable"),
        };
        broadcast
            .field("expected", &self.expected)
            .field("quiet_window", &self.quiet_window)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tower::util::MapErrLayer;

    use super::*;
    use crate::error::BrokerError;
    use crate::transport::Role;
    use crate::transport::memory::{InProcessBroker, MemoryTransport};
    use crate::{Broker, service};

    #[service]
    trait Cache {
        #[rpc(broadcast)]
        async fn count(&self) -> u64;
    }

    /// Opening the queue for answers takes a part of it.
    #[tokio::test]
    async fn layers_see_the_whole_limit_of_a_broadcast_that_timed_out() {
        let limit = Duration::from_millis(50);
        let seen = Arc::new(Mutex::new(None));
        let record = {
            let seen = Arc::clone(&seen);
            move |error: CallError| {
                if let CallError::TimedOut { limit, .. } = &error {
                    *seen.lock().unwrap() = Some(*limit);
                }
                error
            }
        };
        let cache = CacheClient::builder(&Broker::in_process())
            .wait_for_server(true)
            .timeout(limit)
            .layer(MapErrLayer::new(record))
            .build();
        let error = cache.count().send().await.map(drop).unwrap_err();
        assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
        assert_eq!(*seen.lock().unwrap(), Some(limit));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broadcast_that_cannot_receive_answers_reports_why() {
        let transport = Arc::new(MemoryTransport::new(&InProcessBroker::new()));
        transport.cut(Role::Consuming, Duration::ZERO);
        let broker = Broker::builder().with_transport(transport);
        let error = CacheClient::new(&broker)
            .count()
            .send()
            .await
            .map(drop)
            .unwrap_err();
        assert!(
            matches!(
                error,
                CallError::TimedOut {
                    executed: Executed::No,
                    source: Some(BrokerError::Lost { .. }),
                    ..
                }
            ),
            "{error:?}"
        );
    }
}
