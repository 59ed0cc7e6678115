//! A request as a server's layers see it, and the service that passes it through them.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::future::{BoxFuture, ready};
use tokio::time::timeout_at;
use tower_layer::Layer;
use tower_service::Service as TowerService;

use super::BoxError;
use super::attempts::Attempts;
use super::layer_list::LayerList;
use super::shared_service::SharedService;
use super::stack::Stack;
use crate::codec::Codec;
use crate::describe::{MethodDescriptor, ServiceDescriptor, is_built_in_name};
use crate::protocol::{Executed, Fault, FaultCode};
use crate::service::context::Context;
use crate::service::decision::interrupted;
use crate::service::extensions::Extensions;
use crate::service::invocation::{Answer, Invocation, Service};
use crate::telemetry::{ItemCounts, StreamItem};

/// A request for one method, as it passes through the layers of a server.
#[derive(Clone)]
pub struct IncomingCall {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    invocation: Invocation,
    attempts: Arc<Attempts>,
}

impl IncomingCall {
    /// Returns the name of the service that is called.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.service_descriptor().name
    }

    /// Returns the name of the called method on the wire.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.method.name
    }

    /// Returns whether it is safe to run the method more than once.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.method.is_idempotent
    }

    /// Returns whether the method may run. `false` for a request that was delivered before to a
    /// method that is not `idempotent`: the method does not run again, and a request that passes
    /// all layers is refused with the fault `interrupted`. A layer that knows the outcome of the
    /// earlier delivery may answer with it.
    #[must_use]
    pub fn may_run(&self) -> bool {
        self.invocation.may_run()
    }

    /// Returns whether the method is one-way: its caller does not wait for it to run.
    #[must_use]
    pub fn is_oneway(&self) -> bool {
        self.method.is_oneway
    }

    /// Returns the description of the service.
    #[must_use]
    pub fn service_descriptor(&self) -> &'static ServiceDescriptor {
        self.service.descriptor()
    }

    /// Returns the description of the method.
    #[must_use]
    pub fn method_descriptor(&self) -> &'static MethodDescriptor {
        self.method
    }

    /// Returns the names of the service and of the method on the wire, as in `Directory.get_email`.
    /// The name of a built-in method already contains that of its service.
    pub(crate) fn full_name(&self) -> String {
        if is_built_in_name(self.method()) {
            self.method().to_owned()
        } else {
            format!("{}.{}", self.service(), self.method())
        }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.invocation.codec()
    }

    /// The properties of the request, such as its sender, headers and deadline.
    #[must_use]
    pub fn context(&self) -> &Context {
        self.invocation.context()
    }

    /// Values to pass to the method; see [`Extensions`].
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        self.invocation.extensions_mut()
    }

    /// The size of the encoded arguments, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.invocation.bytes()
    }

    /// Calls `observer` for each item of the request's streams: each that the method sends before
    /// it leaves, and each that the method takes. The future of the method ends after the last item
    /// that it sends. Nothing happens if the method has no stream.
    ///
    /// The observer gets the items of a stream in order and once, unless another layer runs the
    /// method again. It is called by the task that runs the method, or by the one to which the
    /// method has moved its `Incoming`, so it must return quickly.
    ///
    /// ```
    /// # use futures_util::stream::{self, Stream};
    /// # use rpc_runtime::middleware::{Handler, IncomingCall, SentBy};
    /// # use rpc_runtime::{Broker, Server, service};
    /// # use tower::layer::layer_fn;
    /// # use tower::util::MapRequest;
    /// # #[service]
    /// # pub trait Numbers { fn count(&self, to: u64) -> impl Stream<Item = u64>; }
    /// # struct Counter;
    /// # impl Numbers for Counter {
    /// #     fn count(&self, to: u64) -> impl Stream<Item = u64> { stream::iter(1..=to) }
    /// # }
    /// # let broker = Broker::in_process();
    /// let server = Server::new(&broker)
    ///     .layer(layer_fn(|inner: Handler| {
    ///         MapRequest::new(inner, |mut call: IncomingCall| {
    ///             let method = call.method();
    ///             call.observe_items(move |item| {
    ///                 if item.sent_by() == SentBy::Method && item.number() == 0 {
    ///                     println!("{method} sends its first item");
    ///                 }
    ///             });
    ///             call
    ///         })
    ///     }))
    ///     .serve(NumbersServer::new(Counter));
    /// ```
    pub fn observe_items(&mut self, observer: impl Fn(StreamItem) + Send + Sync + 'static) {
        self.invocation.observe_items(observer);
    }

    /// Returns how many items the request's streams have had, for a layer that reads the numbers
    /// later: when the method ends, even if it fails, or when it is dropped.
    #[must_use]
    pub fn item_counts(&self) -> ItemCounts {
        ItemCounts::new(self.invocation.item_flow())
    }
}

impl fmt::Debug for IncomingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall")
            .field("service", &self.service())
            .field("invocation", &self.invocation)
            .finish_non_exhaustive()
    }
}

/// A layer for [`Server::layer`](crate::Server::layer). Implemented for every [`Layer`] that turns
/// a [`Handler`] into a service from [`IncomingCall`] to [`Answer`].
///
/// If the service fails with a [`Fault`], the caller gets that fault. Any other error becomes the
/// fault `rejected` if the method did not run, or `abandoned` if it may have run, with the text of
/// the error. A fault that says that the method did not run also becomes `abandoned` if the method
/// may have run, or `interrupted` if it may have run for an earlier delivery of a call.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer for the methods of a server",
    note = "it must be `Send + Sync + 'static` and turn a `Handler` into a `tower_service::Service<IncomingCall, Response = Answer>` that is `Send + 'static`, with a future that is too; if it fits only around another layer, add both as one `tower::ServiceBuilder`"
)]
pub trait HandlerLayer:
    Layer<
        Handler,
        Service: TowerService<
            IncomingCall,
            Response = Answer,
            Error: Into<BoxError>,
            Future: Send + 'static,
        > + Send
                     + 'static,
    > + Send
    + Sync
    + 'static
{
}

impl<L> HandlerLayer for L where
    L: Layer<
            Handler,
            Service: TowerService<
                IncomingCall,
                Response = Answer,
                Error: Into<BoxError>,
                Future: Send + 'static,
            > + Send
                         + 'static,
        > + Send
        + Sync
        + 'static
{
}

/// The service that a server's layer wraps: the layers inside it, and finally the method.
///
/// Its clones share the layers, so a layer that clones it, such as `Retry`, does not multiply a
/// limit inside.
#[derive(Debug, Clone)]
pub struct Handler(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Method,
    Layers(SharedService<IncomingCall, Answer>),
}

impl TowerService<IncomingCall> for Handler {
    type Response = Answer;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Answer, Fault>>;

    /// Ready if the layers inside are. The method always is: the server limits how many requests
    /// run at once.
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Fault>> {
        match &mut self.0 {
            Inner::Method => Poll::Ready(Ok(())),
            Inner::Layers(layers) => layers
                .poll_ready(cx)
                .map_err(|error| layer_fault(error, Executed::No)),
        }
    }

    fn call(&mut self, call: IncomingCall) -> Self::Future {
        match &mut self.0 {
            Inner::Method => run_method(call),
            Inner::Layers(layers) => {
                let attempts = Arc::clone(&call.attempts);
                let outcome = layers.call(call);
                Box::pin(async move {
                    outcome
                        .await
                        .map_err(|error| layer_fault(error, attempts.executed()))
                })
            }
        }
    }
}

/// Runs the method. If it must not run again, returns the fault `interrupted` instead.
fn run_method(call: IncomingCall) -> BoxFuture<'static, Result<Answer, Fault>> {
    if let Some(reason) = call.invocation.rerun_refusal() {
        return Box::pin(ready(Err(interrupted(reason))));
    }
    let mut attempt = call.attempts.add();
    Box::pin(async move {
        attempt.begin();
        let outcome = call.service.handle(&call.invocation).await;
        if let Err(fault) = &outcome {
            attempt.failed(fault.code.executed());
        }
        outcome
    })
}

/// The layers of a server.
#[derive(Default)]
pub(crate) struct HandlerLayers(LayerList<Handler>);

impl HandlerLayers {
    /// Adds a layer inside the others.
    pub(crate) fn push(&mut self, layer: impl HandlerLayer) {
        self.0
            .push(move |inner| Handler(Inner::Layers(SharedService::new(layer.layer(inner)))));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a function that puts services behind one new instance of the layers, which these
    /// services share. Without layers, the function returns the services unchanged.
    pub(crate) fn service_wrapper(&self) -> impl Fn(Arc<dyn Service>) -> Arc<dyn Service> {
        let stack = self.0.wrap(Handler(Inner::Method));
        let stack = stack.map(|handler| Arc::new(Stack::new(handler)));
        move |service| match &stack {
            Some(stack) => Arc::new(Layered {
                service,
                stack: Arc::clone(stack),
            }),
            None => service,
        }
    }
}

/// A service behind layers.
struct Layered {
    service: Arc<dyn Service>,
    stack: Arc<Stack<Handler>>,
}

impl Service for Layered {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.service.descriptor()
    }

    fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async {
            let method = self.descriptor().method(invocation.method());
            let method = method.ok_or_else(|| Fault::unknown_method(invocation.method()))?;
            let attempts = Arc::new(Attempts::default());
            let beginning = self.stack.begin(IncomingCall {
                service: Arc::clone(&self.service),
                method,
                invocation: invocation.clone(),
                attempts: Arc::clone(&attempts),
            });
            let begun = match invocation.context().tokio_deadline() {
                Some(deadline) => timeout_at(deadline, beginning).await.map_err(|_| too_late())?,
                None => beginning.await,
            };
            let outcome = match begun {
                Ok(outcome) => outcome.await,
                Err(fault) => Err(fault),
            };
            match outcome {
                Ok(answer) => Ok(Answer {
                    is_from_layer: attempts.executed() == Executed::No,
                    ..answer
                }),
                Err(error) => Err(layer_fault(error.into(), attempts.executed())),
            }
        })
    }
}

/// Returns the fault of a request whose deadline passed before the layers were ready.
pub(super) fn too_late() -> Fault {
    Fault::new(
        FaultCode::Expired,
        "the caller's time was up before the worker's layers let the method begin",
    )
}

/// Returns the fault for an error of the layers. `executed` says whether any attempt may have run
/// the method: then the fault must not say that the method did not run.
fn layer_fault(error: BoxError, executed: Executed) -> Fault {
    let may_have_run = executed != Executed::No;
    match error.downcast::<Fault>() {
        Ok(fault) if may_have_run && fault.code.executed() == Executed::No => {
            Fault::with_reason(FaultCode::Abandoned, fault)
        }
        Ok(fault) => *fault,
        Err(error) if may_have_run => Fault::with_reason(FaultCode::Abandoned, error),
        Err(error) => Fault::with_reason(FaultCode::Rejected, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_layer_says_whether_the_method_may_have_run() {
        let unauthorized = || Box::new(Fault::new(FaultCode::Unauthorized, "not you"));
        let shed = |executed| layer_fault("overloaded".into(), executed);
        assert_eq!(shed(Executed::No).code, FaultCode::Rejected);
        assert_eq!(shed(Executed::No).message, "overloaded");
        assert_eq!(shed(Executed::Maybe).code, FaultCode::Abandoned);
        assert_eq!(
            layer_fault(unauthorized(), Executed::No).code,
            FaultCode::Unauthorized
        );
        assert_eq!(
            layer_fault(unauthorized(), Executed::Maybe).code,
            FaultCode::Abandoned
        );
        let panicked = Box::new(Fault::new(FaultCode::Panicked, ""));
        assert_eq!(layer_fault(panicked, Executed::Maybe).code, FaultCode::Panicked);
    }
}
