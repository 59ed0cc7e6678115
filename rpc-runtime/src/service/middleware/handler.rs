//! The worker's side: a request as layers see it, and the way through them.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::future::BoxFuture;
use tokio::time::timeout_at;
use tower_layer::Layer;
use tower_service::Service as TowerService;

use super::BoxError;
use super::attempts::Attempts;
use super::stack::Stack;
use crate::describe::{MethodDescriptor, ServiceDescriptor, is_built_in};
use crate::protocol::{Executed, Fault, FaultCode};
use crate::service::context::Context;
use crate::service::extensions::Extensions;
use crate::service::invocation::{Answer, Invocation, Service};

/// A request for one method, on its way to it.
#[derive(Clone)]
pub struct IncomingCall {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    invocation: Invocation,
    attempts: Arc<Attempts>,
}

impl IncomingCall {
    /// The service that has the method.
    #[must_use]
    pub fn service(&self) -> &'static ServiceDescriptor {
        self.service.descriptor()
    }

    /// The method that is to be run.
    #[must_use]
    pub fn method(&self) -> &'static MethodDescriptor {
        self.method
    }

    /// The service's name and the method's name on the wire, as in `Directory.get_email`; of a built-in method, which has its service's name
    /// already, only that.
    pub(crate) fn full_name(&self) -> String {
        match is_built_in(self.method.name) {
            true => self.method.name.to_owned(),
            false => format!("{}.{}", self.service().name, self.method.name),
        }
    }

    /// What is known of the request: who sent it, its headers, its deadline.
    #[must_use]
    pub fn context(&self) -> &Context {
        self.invocation.context()
    }

    /// What to hand on to the method, beside what is in its [`context`](Self::context).
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        self.invocation.extensions_mut()
    }

    /// How long the arguments are, encoded, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.invocation.bytes()
    }
}

impl fmt::Debug for IncomingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall")
            .field("service", &self.service().name)
            .field("invocation", &self.invocation)
            .finish_non_exhaustive()
    }
}

/// A layer for [`Server::layer`](crate::Server::layer): any [`Layer`] that makes a service for [`IncomingCall`]s out of a [`Handler`],
/// which answers with an [`Answer`].
///
/// Where it fails with a [`Fault`], that is what the caller gets. Any other error is the fault `rejected` where the method had not
/// begun, and `abandoned` where it had, with the error's text.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no layer around the methods of a server",
    note = "it has to make a `tower_service::Service<IncomingCall, Response = Answer>` out of a `Handler`, both of them `Send + 'static`"
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
    >
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
        >
{
}

/// What the innermost layer of a server is around: it runs the method.
#[derive(Debug, Clone)]
pub struct Handler(());

impl TowerService<IncomingCall> for Handler {
    type Response = Answer;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Answer, Fault>>;

    /// It is always ready: a server takes no more requests than may run at once.
    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: IncomingCall) -> Self::Future {
        let mut attempt = call.attempts.make();
        Box::pin(async move {
            attempt.begin();
            let outcome = call.service.handle(&call.invocation).await;
            if let Err(fault) = &outcome {
                attempt.failed(fault.code.executed());
            }
            outcome
        })
    }
}

/// A [`Stack`] of whatever layers.
trait HandlerStack: Send + Sync {
    /// Waits until the layers are ready, and hands them the request.
    fn begin(&self, call: IncomingCall) -> BoxFuture<'_, Result<Ending, BoxError>>;
}

/// The rest of the way of a request that layers were ready for.
type Ending = BoxFuture<'static, Result<Answer, BoxError>>;

impl<S> HandlerStack for Stack<S>
where
    S: TowerService<IncomingCall, Response = Answer, Error: Into<BoxError>, Future: Send + 'static> + Send,
{
    fn begin(&self, call: IncomingCall) -> BoxFuture<'_, Result<Ending, BoxError>> {
        Box::pin(async move {
            let ending = Stack::begin(self, call).await.map_err(Into::into)?;
            Ok(Box::pin(async { ending.await.map_err(Into::into) }) as Ending)
        })
    }
}

/// A service behind layers.
struct Layered {
    service: Arc<dyn Service>,
    stack: Arc<dyn HandlerStack>,
}

/// Puts a service behind layers.
pub(crate) type Around = Arc<dyn Fn(Arc<dyn Service>) -> Arc<dyn Service> + Send + Sync>;

/// Puts services behind one stack of layers.
pub(crate) fn layered_service<L: HandlerLayer>(layer: &L) -> Around {
    let stack: Arc<dyn HandlerStack> = Arc::new(Stack::new(layer.layer(Handler(()))));
    Arc::new(move |service| {
        let stack = Arc::clone(&stack);
        Arc::new(Layered { service, stack })
    })
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
                Some(deadline) => match timeout_at(deadline, beginning).await {
                    Ok(begun) => begun,
                    Err(_) => return Err(too_late()),
                },
                None => beginning.await,
            };
            let outcome = match begun {
                Ok(ending) => ending.await,
                Err(error) => Err(error),
            };
            outcome.map_err(|error| fault(error, attempts.executed()))
        })
    }
}

fn too_late() -> Fault {
    Fault::new(
        FaultCode::Expired,
        "the caller's time was up before the worker's layers let the method begin",
    )
}

/// What the caller is told of an error of the layers. A fault that says the method did not run must not do so where an attempt
/// before that may have run it.
fn fault(error: BoxError, executed: Executed) -> Fault {
    match (error.downcast::<Fault>(), executed) {
        (Ok(fault), Executed::No) => *fault,
        (Ok(fault), _) if fault.code.executed() != Executed::No => *fault,
        (Ok(fault), _) => Fault::because(FaultCode::Abandoned, fault),
        (Err(error), Executed::No) => Fault::because(FaultCode::Rejected, error),
        (Err(error), _) => Fault::because(FaultCode::Abandoned, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_layer_says_whether_the_method_may_have_run() {
        let unauthorized = || Box::new(Fault::new(FaultCode::Unauthorized, "not you"));
        let shed = |executed| fault("overloaded".into(), executed);
        assert_eq!(shed(Executed::No).code, FaultCode::Rejected);
        assert_eq!(shed(Executed::No).message, "overloaded");
        assert_eq!(shed(Executed::Maybe).code, FaultCode::Abandoned);
        assert_eq!(fault(unauthorized(), Executed::No).code, FaultCode::Unauthorized);
        assert_eq!(fault(unauthorized(), Executed::Maybe).code, FaultCode::Abandoned);
        let panicked = Box::new(Fault::new(FaultCode::Panicked, ""));
        assert_eq!(fault(panicked, Executed::Maybe).code, FaultCode::Panicked);
    }
}
