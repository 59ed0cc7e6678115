//! Client middleware: the call that layers see, and the service that they wrap.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tower_layer::Layer;
use tower_service::Service;

use super::backend::Backend;
use super::in_flight_call::InFlightCall;
use super::invalid_call::InvalidCall;
use super::plan::CallPlan;
use super::streaming::ItemInbox;
use super::time_limit::TimeLimit;
use crate::error::CallError;
use crate::protocol::{Executed, Fault, FaultCode, Headers, Reply, ReplyKind, insert_user_header};
use crate::service::middleware::{Attempts, BoxError, LayerList, SharedService, Stack};
use crate::telemetry::{ItemCounts, ItemObservers, StreamItem};

/// A call that layers may change before it is sent.
///
/// A layer that makes several attempts clones it. The arguments are encoded and not accessible.
#[derive(Debug, Clone)]
pub struct OutgoingCall {
    plan: CallPlan,
    time_limit: TimeLimit,
    attempts: Arc<Attempts>,
    observers: ItemObservers,
}

impl OutgoingCall {
    /// Returns the name of the service that is called.
    #[must_use]
    pub fn service(&self) -> &str {
        self.plan.destination.service.name()
    }

    /// Returns the name of the called method on the wire.
    #[must_use]
    pub fn method(&self) -> &str {
        self.plan.method.name()
    }

    /// Returns whether it is safe to run the method more than once.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.plan.method.is_idempotent()
    }

    /// Returns whether the method is one-way: its caller does not wait for it to run.
    #[must_use]
    pub fn is_oneway(&self) -> bool {
        self.plan.method.is_oneway()
    }

    /// Returns whether all workers of the queue get the request. The reply to a broadcast has no
    /// result and means only that the request was published, perhaps without the broker's confirm:
    /// layers do not see the workers' answers.
    #[must_use]
    pub fn is_broadcast(&self) -> bool {
        self.plan.method.is_broadcast()
    }

    /// Returns the name of the queue whose workers are called.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.plan.destination.queue.as_str()
    }

    /// Returns the headers of the request.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.plan.headers
    }

    /// Adds a header to the request, or replaces the one with the same name.
    ///
    /// # Errors
    ///
    /// [`CallError::Invalid`] if the name is [reserved](crate::Headers) or longer than 255 bytes,
    /// or if all headers together exceed 4 KiB.
    pub fn insert_header(
        &mut self,
        name: impl AsRef<str>,
        value: impl Into<String>,
    ) -> Result<(), CallError> {
        insert_user_header(&mut self.plan.headers, name, value)
            .map_err(|error| CallError::from(InvalidCall::from(error)))
    }

    /// Returns the request's priority, or `None` if it has none.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.plan.priority
    }

    /// Returns the call's deadline.
    #[must_use]
    pub fn deadline(&self) -> std::time::Instant {
        self.time_limit.deadline.into_std()
    }

    /// Returns the time left until the [`deadline`](Self::deadline); zero if it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.time_limit.deadline.saturating_duration_since(Instant::now())
    }

    /// Calls `observer` for each item of the call's streams: each that the method receives once it
    /// has been taken from the caller's stream, and each that the method sends before its reader
    /// gets it. The future of the call ends after the last item. Nothing happens if the method has
    /// no stream.
    ///
    /// The observer gets the items of a stream in order and once. It is called by the tasks that
    /// send and read the items, perhaps by both at the same time, so it must return quickly. It
    /// must not hold the call, which keeps its observers. If several attempts of the call run at
    /// the same time, the observers of the last one get the items.
    ///
    /// ```
    /// # use futures_util::stream::{self, Stream};
    /// # use rpc_runtime::middleware::{CallService, OutgoingCall};
    /// # use rpc_runtime::{ClientBuilder, service};
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicUsize, Ordering};
    /// # use tower::layer::layer_fn;
    /// # use tower::util::MapRequest;
    /// # #[service]
    /// # pub trait Numbers { fn count(&self, to: u64) -> impl Stream<Item = u64>; }
    /// # struct Counter;
    /// # impl Numbers for Counter {
    /// #     fn count(&self, to: u64) -> impl Stream<Item = u64> { stream::iter(1..=to) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let bytes = Arc::new(AtomicUsize::new(0));
    /// let total = Arc::clone(&bytes);
    /// let layer = layer_fn(move |inner: CallService| {
    ///     let total = Arc::clone(&total);
    ///     MapRequest::new(inner, move |mut call: OutgoingCall| {
    ///         let total = Arc::clone(&total);
    ///         call.observe_items(move |item| {
    ///             total.fetch_add(item.bytes(), Ordering::Relaxed);
    ///         });
    ///         call
    ///     })
    /// });
    /// # let builder = ClientBuilder::<NumbersClient>::in_process(NumbersServer::new(Counter));
    /// # let numbers = builder.layer(layer).build();
    /// # let mut count = numbers.count(3);
    /// # while let Some(number) = count.next().await {
    /// #     number.unwrap();
    /// # }
    /// assert_eq!(bytes.load(Ordering::Relaxed), 3);
    /// # }
    /// ```
    pub fn observe_items(&mut self, observer: impl Fn(StreamItem) + Send + Sync + 'static) {
        self.observers.push(observer);
    }

    /// Returns how many items the call's streams have had, for a layer that reads the numbers
    /// later: when the call ends, also if it fails, or when it is dropped.
    #[must_use]
    pub fn item_counts(&self) -> ItemCounts {
        let inbox = self.plan.destination.inbox.as_ref();
        ItemCounts::new(inbox.and_then(|inbox| inbox.flow()))
    }
}

/// The reply to a call: the method's result, or its own error.
#[derive(Clone)]
pub struct CallReply(Reply);

impl CallReply {
    /// Returns whether the method returned its own error, which the caller gets as
    /// [`CallError::Service`] or [`CallError::ServiceText`].
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.0.kind == ReplyKind::Error
    }

    /// Returns the headers of the reply, such as `traceparent`.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// Returns the size of the encoded result or error, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.body.len()
    }
}

impl fmt::Debug for CallReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallReply")
            .field("is_error", &self.is_error())
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// A layer for [`ClientBuilder::layer`](crate::ClientBuilder::layer): any [`Layer`] that turns a
/// [`CallService`] into a service from [`OutgoingCall`] to [`CallReply`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer for the calls of a client",
    note = "it must be `Send + Sync + 'static` and turn a `CallService` into a `tower_service::Service<OutgoingCall, Response = CallReply>`, and the service and its future must be `Send + 'static`; if it fits only around another layer, add both as one `tower::ServiceBuilder`"
)]
pub trait CallLayer:
    Layer<
        CallService,
        Service: Service<
            OutgoingCall,
            Response = CallReply,
            Error: Into<BoxError>,
            Future: Send + 'static,
        > + Send
                     + 'static,
    > + Send
    + Sync
    + 'static
{
}

impl<L> CallLayer for L where
    L: Layer<
            CallService,
            Service: Service<
                OutgoingCall,
                Response = CallReply,
                Error: Into<BoxError>,
                Future: Send + 'static,
            > + Send
                         + 'static,
        > + Send
        + Sync
        + 'static
{
}

/// The service that a client's layer wraps: the layers inside it, and finally the service that
/// sends the request and waits for the reply.
///
/// A [`Fault`](crate::Fault) is an error here, [`CallError::Fault`]. The method's own error is a
/// [`CallReply`]. If the error of a layer inside is not a [`CallError`], it becomes
/// [`CallError::Middleware`]. So does an error that says that the method did not run although
/// another attempt may have run it.
///
/// Its clones share the layers, so a layer that clones it, such as `Retry`, does not multiply a
/// limit inside.
#[derive(Debug, Clone)]
pub struct CallService(Inner);

#[derive(Debug, Clone)]
enum Inner {
    /// No layer is inside.
    Backend(Backend),
    /// The next layer, around those inside it.
    Layers(SharedService<OutgoingCall, CallReply>),
}

impl Service<OutgoingCall> for CallService {
    type Response = CallReply;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<CallReply, CallError>>;

    /// Ready if the layers inside are. Waiting for a permit happens in the future that `call`
    /// returns. See [`max_in_flight`](crate::ClientBuilder::max_in_flight).
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), CallError>> {
        match &mut self.0 {
            Inner::Backend(_) => Poll::Ready(Ok(())),
            Inner::Layers(layers) => layers
                .poll_ready(cx)
                .map_err(|error| layer_error(error, Executed::No)),
        }
    }

    fn call(&mut self, call: OutgoingCall) -> Self::Future {
        match &mut self.0 {
            Inner::Backend(backend) => make_attempt(backend.clone(), call),
            Inner::Layers(layers) => {
                let attempts = Arc::clone(&call.attempts);
                let reply = layers.call(call);
                Box::pin(async move {
                    reply
                        .await
                        .map_err(|error| layer_error(error, attempts.executed()))
                })
            }
        }
    }
}

/// Makes one attempt of a call, inside all layers: sends the request and waits for the reply. Sends
/// nothing if the call's stream has begun, or if the deadline has passed. Records in the call's
/// attempts whether the method may have run.
fn make_attempt(backend: Backend, call: OutgoingCall) -> BoxFuture<'static, Result<CallReply, CallError>> {
    let mut attempt = call.attempts.add();
    Box::pin(async move {
        attempt.begin();
        let OutgoingCall {
            plan,
            time_limit,
            observers,
            ..
        } = call;
        let items = plan.destination.inbox.clone();
        let outcome = match &items {
            // The worker has sent a message about a stream in one of the two directions, so the
            // streams cannot begin again.
            Some(items) if items.has_begun() => items.earlier_outcome().map_err(CallError::Fault),
            // A layer took too long.
            _ if time_limit.is_over() => Err(time_limit.timeout_error(Executed::No)),
            _ => {
                if let Some(items) = &items {
                    items.begin_attempt(observers);
                }
                let call = Arc::new(InFlightCall::new(plan));
                backend.attempt(call, time_limit).await
            }
        };
        let outcome = match outcome {
            Ok(reply) if reply.kind == ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
            Ok(reply) => Ok(CallReply(reply)),
            Err(error) => Err(error),
        };
        if let Some(items) = items {
            remember_outcome(&items, &outcome);
        }
        if let Err(error) = &outcome {
            attempt.failed(error.executed());
        }
        outcome
    })
}

/// Remembers the outcome of an attempt: once the stream has begun, a further attempt returns it
/// instead of sending a request. An error without a fault from before the stream began is not kept.
fn remember_outcome(items: &ItemInbox, outcome: &Result<CallReply, CallError>) {
    match outcome {
        Ok(CallReply(reply)) => items.set_outcome(Ok(reply.clone())),
        Err(CallError::Fault(fault)) => items.set_outcome(Err(fault.clone())),
        // Other errors cannot be cloned, so a fault takes their place.
        Err(error) if items.has_begun() => {
            let reason = format!("the stream had begun, so the call was not made again: {error}");
            items.set_outcome(Err(Fault::new(FaultCode::Interrupted, reason)));
        }
        Err(_) => {}
    }
}

/// The layers of a client.
#[derive(Default)]
pub(super) struct CallLayers(LayerList<CallService>);

impl CallLayers {
    /// Adds a layer inside the others.
    pub(super) fn push(&mut self, layer: impl CallLayer) {
        self.0
            .push(move |inner| CallService(Inner::Layers(SharedService::new(layer.layer(inner)))));
    }

    /// Returns what makes calls through the layers to this backend. `None` if there are no layers.
    pub(super) fn layered_caller(&self, backend: &Backend) -> Option<LayeredCaller> {
        let service = self.0.wrap(CallService(Inner::Backend(backend.clone())))?;
        Some(LayeredCaller {
            stack: Stack::new(service),
            backend: backend.clone(),
        })
    }
}

impl fmt::Debug for CallLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallLayers").finish_non_exhaustive()
    }
}

/// Makes calls through the layers of a client.
pub(crate) struct LayeredCaller {
    stack: Stack<CallService>,
    backend: Backend,
}

impl LayeredCaller {
    /// Returns what the layers send requests to.
    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Makes a call and waits for its reply. The deadline holds even if a layer ignores it, until a
    /// stream begins.
    pub(crate) async fn call(&self, plan: &CallPlan, time_limit: TimeLimit) -> Result<Reply, CallError> {
        let attempts = Arc::new(Attempts::default());
        let call = OutgoingCall {
            plan: plan.clone(),
            time_limit,
            attempts: Arc::clone(&attempts),
            observers: ItemObservers::default(),
        };
        let mut reply = pin!(async { self.stack.begin(call).await?.await });
        let ended = match timeout_at(time_limit.deadline, &mut reply).await {
            // The deadline is over, but does not limit a stream that has begun.
            Err(_) if plan.has_stream_begun() => Ok(reply.await),
            ended => ended,
        };
        match ended {
            Ok(Ok(CallReply(reply))) => Ok(reply),
            Ok(Err(error)) => Err(layer_error(error.into(), attempts.executed())),
            Err(_) => Err(time_limit.timeout_error(attempts.executed())),
        }
    }
}

/// Returns the call's error outside a layer, for an error of the layer, or from inside it.
/// `executed` says whether any attempt may have run the method: then the call's error must not say
/// that the method did not run.
fn layer_error(error: BoxError, executed: Executed) -> CallError {
    match error.downcast::<CallError>() {
        Ok(error) if error.executed() == Executed::No && executed != Executed::No => CallError::Middleware {
            source: error,
            executed,
        },
        Ok(error) => *error,
        Err(source) => CallError::Middleware { source, executed },
    }
}

impl fmt::Debug for LayeredCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayeredCaller").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_server() -> CallError {
        CallError::NoServer { queue: "q".into() }
    }

    #[test]
    fn an_error_of_a_layer_says_whether_an_attempt_may_have_run() {
        let attempts = Arc::<Attempts>::default();
        let shed = || layer_error("overloaded".into(), attempts.executed());
        assert_eq!(shed().executed(), Executed::No);
        assert!(shed().is_retryable());
        // Another task may begin the attempt at any moment.
        let mut attempt = attempts.add();
        assert_eq!(shed().executed(), Executed::Maybe);
        attempt.begin();
        assert!(!shed().is_retryable());
        attempt.failed(Executed::No);
        assert_eq!(shed().executed(), Executed::No);
        drop(attempts.add());
        assert_eq!(shed().executed(), Executed::No);
    }

    #[test]
    fn the_last_attempt_does_not_hide_that_an_earlier_one_may_have_run() {
        let attempts = Arc::<Attempts>::default();
        let error = layer_error(Box::new(no_server()), attempts.executed());
        assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
        let mut attempt = attempts.add();
        attempt.begin();
        attempt.failed(Executed::Maybe);
        let error = layer_error(Box::new(no_server()), attempts.executed());
        assert_eq!(error.executed(), Executed::Maybe);
        let CallError::Middleware { source, .. } = error else {
            panic!("{error:?}");
        };
        assert!(source.is::<CallError>());
    }
}
