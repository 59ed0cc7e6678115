//! The layer.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, pending, poll_fn};
use tokio::time::{sleep_until, timeout};
use tower_layer::Layer;
use tower_service::Service;
use tracing::Level;

use super::in_progress::{InProgress, Turn};
use super::store::IdempotencyStore;
use super::stored_outcome::StoredOutcome;
use crate::describe::is_built_in_name;
use crate::error::Chain;
use crate::escape::Logged;
use crate::protocol::{Fault, FaultCode, RequestId};
use crate::service::invocation::Answer;
use crate::service::middleware::BoxError;
use crate::service::middleware::handler::{IncomingCall, too_late};
use crate::service::middleware::method_names::MethodNames;
use crate::telemetry::{LogLimit, Suppressed};

/// How long a store may take, before the method runs and again afterwards.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server's layer that answers a repeated request with the outcome of the first delivery, instead
/// of running its method again.
///
/// It asks a [store](IdempotencyStore) before a method runs, and tells it the outcome afterwards.
/// Requests are recognized by their [`request_id`](crate::Context::request_id). Those without one
/// pass as if there were no such layer.
///
/// ```
/// # use std::time::Duration;
/// # use rpc_runtime::{Broker, Server, ServerError, service};
/// # #[service]
/// # pub trait Bank { async fn pay(&self, cents: u64) -> u64; }
/// # struct Account;
/// # impl Bank for Account { async fn pay(&self, cents: u64) -> u64 { cents } }
/// # async fn example(broker: Broker) -> Result<(), ServerError> {
/// use rpc_runtime::middleware::{Idempotency, InMemoryStore};
///
/// let store = InMemoryStore::new(10_000, Duration::from_secs(600));
/// let server = Server::new(&broker)
///     .layer(Idempotency::new(store).only(["Bank.pay"]))
///     .serve(BankServer::new(Account))
///     .start()
///     .await?;
/// # server.stop().await
/// # }
/// ```
///
/// # What it changes
///
/// - **A method that is not `idempotent`**: a call that comes back after its worker was lost is
///   answered with the stored outcome, unless it was delivered too often. Without one, the caller
///   gets the fault `interrupted`, as without this layer: the worker may have been lost while the
///   method ran.
/// - **A method that is `idempotent`**, as that of every job is: it runs again only if no outcome
///   is stored.
/// - **The same request twice at the same time** in one server: the second one waits for the first
///   one, at most until its deadline. Workers do not wait for each other.
///
/// A worker may be lost after the method's effects and before the outcome is stored. So the layer
/// alone does not make the effects of an `idempotent` method happen once: write the request's id in
/// the method's own transaction; see [`middleware`](crate::middleware#exactly-once).
///
/// # What is stored
///
/// Results, and the method's own errors, also if a layer inside this one answers. Faults are not
/// stored, nor are the errors of one-way methods: a job that failed is retried with the same id.
///
/// The store finds an outcome by the id alone, which the caller chooses. Whoever learns the id of
/// another caller's request and sends it to the same method gets that outcome, with other arguments
/// too. Put [`Authorize`](crate::middleware::Authorize) outside of this layer: it refuses users who
/// may not call the method before the store is asked.
///
/// # Errors of the store
///
/// If the store fails, panics or takes longer than ten seconds before the method runs, the method
/// does not run, and the caller gets the fault `rejected`, or `interrupted` if an earlier delivery
/// may have run it. If that happens afterwards, the caller gets the fault `abandoned`, because a
/// repeated request could not be answered with the same outcome. A job that has succeeded is
/// acknowledged nevertheless. The error itself is logged.
pub struct Idempotency<S> {
    shared: Arc<Shared<S>>,
    /// `None` for all methods.
    methods: Option<MethodNames>,
}

impl<S: IdempotencyStore> Idempotency<S> {
    /// Makes a layer that applies to all methods, unless [`only`](Self::only) names some. It never
    /// applies to the built-in ones, to broadcasts, which each worker runs, or to methods that
    /// return or receive a stream.
    #[must_use]
    pub fn new(store: S) -> Self {
        let shared = Shared {
            store,
            in_progress: Arc::default(),
            log: LogLimit::new("Idempotency"),
        };
        Self {
            shared: Arc::new(shared),
            methods: None,
        }
    }

    /// Applies only to these methods, and to those that `only` named before. Requests for other
    /// methods do not reach the store. See [`new`](Self::new) for those to which the layer never
    /// applies.
    ///
    /// A method is named by its service and its name on the wire, as in `Bank.pay`. A `*` at the
    /// end matches any ending.
    #[must_use]
    pub fn only<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        self.methods.get_or_insert_default().add(methods);
        self
    }
}

impl<S> Clone for Idempotency<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            methods: self.methods.clone(),
        }
    }
}

impl<S> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

impl<S, I> Layer<I> for Idempotency<S> {
    type Service = Idempotent<S, I>;

    fn layer(&self, inner: I) -> Idempotent<S, I> {
        Idempotent {
            layer: self.clone(),
            inner,
        }
    }
}

/// A service behind [`Idempotency`].
#[derive(Debug)]
pub struct Idempotent<S, I> {
    layer: Idempotency<S>,
    inner: I,
}

impl<S, I: Clone> Clone for Idempotent<S, I> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S, I> Service<IncomingCall> for Idempotent<S, I>
where
    S: IdempotencyStore,
    I: Service<IncomingCall, Response = Answer, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    /// Always ready. Waiting for the next service happens in the future that `call` returns, after
    /// the store was asked: a request that is answered from the store does not need that service.
    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: IncomingCall) -> Self::Future {
        let inner = self.inner.clone();
        let method = call.full_name();
        let id = call.context().request_id();
        // All workers get a broadcast with the same id, and each runs it. Neither the request nor
        // the answer of a method with a stream holds the items.
        let descriptor = call.method_descriptor();
        let is_storable = !descriptor.is_broadcast && !descriptor.has_stream();
        match id {
            Some(id) if is_storable && self.layer.is_selected(&method) => {
                let shared = Arc::clone(&self.layer.shared);
                Box::pin(async move { shared.serve(id, method, call, inner).await })
            }
            _ => Box::pin(run(inner, call)),
        }
    }
}

/// Passes a request to the next service once that is ready, and waits for the answer. Fails if the
/// deadline passes before the service is ready.
async fn run<I>(mut inner: I, call: IncomingCall) -> Result<Answer, BoxError>
where
    I: Service<IncomingCall, Response = Answer, Error: Into<BoxError>>,
{
    tokio::select! {
        // The store may have taken the rest of the caller's time.
        biased;
        () = wait_for_deadline(&call) => return Err(too_late().into()),
        ready = poll_fn(|cx| inner.poll_ready(cx)) => ready.map_err(Into::into)?,
    }
    inner.call(call).await.map_err(Into::into)
}

/// Waits until the deadline of a request. Never returns if it has none.
async fn wait_for_deadline(call: &IncomingCall) {
    match call.context().tokio_deadline() {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

impl<S> Idempotency<S> {
    /// Whether the name of a method allows the layer to apply: it is not that of a built-in one,
    /// and [`only`](Self::only) named it or was not called.
    fn is_selected(&self, method: &str) -> bool {
        let is_wanted = |methods: &MethodNames| methods.contains(method);
        !is_built_in_name(method) && self.methods.as_ref().is_none_or(is_wanted)
    }
}

/// What the clones of a layer share.
struct Shared<S> {
    store: S,
    in_progress: Arc<InProgress>,
    log: LogLimit,
}

impl<S: IdempotencyStore> Shared<S> {
    /// Answers a request with its stored outcome, or runs its method and stores the outcome.
    async fn serve<I>(
        &self,
        id: RequestId,
        method: String,
        call: IncomingCall,
        inner: I,
    ) -> Result<Answer, BoxError>
    where
        I: Service<IncomingCall, Response = Answer, Error: Into<BoxError>>,
    {
        let _turn = self.wait_turn(id, &call).await?;
        let stored = tokio::select! {
            biased;
            stored = self.load(id) => stored?,
            () = wait_for_deadline(&call) => return Err(too_late().into()),
        };
        if let Some(outcome) = stored {
            let answer = outcome.answer(&method, call.codec());
            return Ok(answer.ok_or_else(other_request)?);
        }
        let is_oneway = call.is_oneway();
        let answer = run(inner, call).await?;
        // A failed job is retried with the same id, and must run again.
        if is_oneway && answer.is_error() {
            return Ok(answer);
        }
        match self.save(id, StoredOutcome::new(method, &answer)).await {
            Err(fault) if !is_oneway => Err(fault.into()),
            // Nobody waits for the outcome. A retry would run the method again.
            Ok(()) | Err(_) => Ok(answer),
        }
    }

    /// Waits until no other delivery of the request is in progress, at most until its deadline.
    async fn wait_turn(&self, id: RequestId, call: &IncomingCall) -> Result<Turn, Fault> {
        tokio::select! {
            biased;
            turn = self.in_progress.wait_turn(id) => Ok(turn),
            () = wait_for_deadline(call) => Err(still_running()),
        }
    }

    async fn load(&self, id: RequestId) -> Result<Option<StoredOutcome>, Fault> {
        let loaded = in_time(async { self.store.load(id).await }).await;
        loaded.map_err(|error| {
            self.log_error("load", &error);
            Fault::new(
                FaultCode::Rejected,
                "the worker does not know whether this request ran before: its store of outcomes failed",
            )
        })
    }

    async fn save(&self, id: RequestId, outcome: StoredOutcome) -> Result<(), Fault> {
        let saved = in_time(async { self.store.save(id, outcome).await }).await;
        saved.map_err(|error| {
            self.log_error("save", &error);
            Fault::new(
                FaultCode::Abandoned,
                "the method ran, but the worker could not store its outcome",
            )
        })
    }

    fn log_error(&self, step: &'static str, error: &BoxError) {
        if let Some(Suppressed(suppressed)) = self.log.admit(Level::ERROR, step) {
            let error = Logged(Chain(&**error));
            tracing::error!(step, %error, suppressed, "the store of outcomes failed");
        }
    }
}

/// Limits a step of the store to [`STORE_TIMEOUT`]. A panic becomes an error.
async fn in_time<T>(step: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    match timeout(STORE_TIMEOUT, AssertUnwindSafe(step).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err("it panicked".into()),
        Err(_) => Err(format!("it took longer than {STORE_TIMEOUT:?}").into()),
    }
}

fn other_request() -> Fault {
    Fault::new(
        FaultCode::BadRequest,
        "another request had the same correlation id: each needs a UUID of its own",
    )
}

fn still_running() -> Fault {
    Fault::new(
        FaultCode::Abandoned,
        "an earlier delivery of this request still runs, and the caller's time is up",
    )
}
