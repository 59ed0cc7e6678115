//! A call: what a client's method returns, and what is awaited for the answer.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::call_path::CallPath;
use super::invalid_call::InvalidCall;
use super::plan::CallPlan;
use super::slot::Slot;
use crate::error::CallError;
use crate::protocol::{Reply, insert_user_header};
use crate::service::ResultType;

/// A call of a remote method: await it for the answer.
///
/// The arguments are encoded already, so it borrows nothing: it is `Send + 'static`, can be spawned, collected and
/// joined. Nothing is sent before it is first polled, and its time limit counts from then.
///
/// Options are chained before `.await`:
///
/// ```
/// # use rpc_runtime::{Broker, CallError, service};
/// # use std::time::Duration;
/// # #[service]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
/// # async fn example(directory: DirectoryClient) -> Result<(), CallError> {
/// let email = directory
///     .get_email("user:12345")
///     .timeout(Duration::from_millis(200))
///     .priority(5)
///     .header("tenant", "a")
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
///
/// Dropping a call that was polled stops waiting for its answer; a late reply is discarded. The request, if it left, is
/// not called back: the method may run.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<T, E = Infallible> {
    state: State<T, E>,
}

/// A call of a method that returns the `Result` type `R`: [`Call<T, E>`](Call) for a `Result<T, E>`, whatever name it goes
/// by.
pub type FallibleCall<R> = Call<<R as ResultType>::Ok, <R as ResultType>::Err>;

/// How a reply becomes the method's answer.
pub(crate) type ReadReply<T, E> = fn(Reply) -> Result<T, CallError<E>>;

enum State<T, E> {
    Planned(Planned<T, E>),
    Running(Running<T, E>),
    /// The outcome was given: see [`Call::ready`].
    Ready(Box<dyn FnOnce() -> Result<T, CallError<E>> + Send>),
    Ended,
}

struct Planned<T, E> {
    path: CallPath,
    plan: Result<Arc<Slot>, InvalidCall>,
    read: ReadReply<T, E>,
}

struct Running<T, E> {
    reply: BoxFuture<'static, Result<Reply, CallError>>,
    read: ReadReply<T, E>,
}

impl<T, E> Call<T, E> {
    pub(crate) fn new(path: CallPath, plan: Result<Arc<Slot>, InvalidCall>, read: ReadReply<T, E>) -> Self {
        Self {
            state: State::Planned(Planned { path, plan, read }),
        }
    }

    /// A call whose outcome is known, and which is sent nowhere: for code that stands in for a client in a test and has
    /// to return what the client does. Options have no effect on it.
    ///
    /// ```
    /// # use rpc_runtime::{Call, CallError, service};
    /// # #[service]
    /// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
    /// /// What the code under test needs of the directory.
    /// trait Emails {
    ///     fn get_email(&self, id: &str) -> Call<String>;
    /// }
    ///
    /// impl Emails for DirectoryClient {
    ///     fn get_email(&self, id: &str) -> Call<String> {
    ///         self.get_email(id)
    ///     }
    /// }
    ///
    /// /// A directory that nobody serves.
    /// struct Unreachable;
    ///
    /// impl Emails for Unreachable {
    ///     fn get_email(&self, _: &str) -> Call<String> {
    ///         Call::ready(Err(CallError::NoServer { queue: "Directory".into() }))
    ///     }
    /// }
    /// ```
    pub fn ready(outcome: Result<T, CallError<E>>) -> Self
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        Self {
            state: State::Ready(Box::new(move || outcome)),
        }
    }

    /// Sets how long the call may take. The broker drops the request once it has had it for that long.
    ///
    /// The default is the method's own `timeout`, else the client's, else 30 seconds. In a handler, the time that
    /// the handler's own caller still waits is a limit too, unless the call is [`detached`](Self::detached).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.plan(|plan| {
            plan.timeout = limit;
            Ok(())
        });
        self
    }

    /// Detaches the call from the handler that makes it: it has the whole of its own time limit, even after the handler's
    /// deadline. For calls that undo something, which must be made although the handler's caller waits no longer.
    ///
    /// ```
    /// # use rpc_runtime::{CallError, service};
    /// # #[service]
    /// # pub trait Stock { async fn release(&self, id: u64); }
    /// # #[service]
    /// # pub trait Payment { async fn charge(&self, id: u64); }
    /// # async fn example(stock: StockClient, payment: PaymentClient, id: u64) -> Result<(), CallError> {
    /// if let Err(error) = payment.charge(id).await {
    ///     stock.release(id).detached().await?;
    ///     return Err(error);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn detached(mut self) -> Self {
        self.plan(|plan| {
            plan.is_detached = true;
            Ok(())
        });
        self
    }

    /// Sends a header with the request. The same name again replaces the value.
    ///
    /// A name longer than 255 bytes, one that is [reserved](Headers), and headers of more than 4 KiB in all fail the call
    /// with [`CallError::Invalid`].
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.plan(|plan| Ok(insert_user_header(&mut plan.headers, name, value)?));
        self
    }

    /// Sets the request's priority: requests of a higher one overtake others in a queue that was declared with
    /// [`priorities`](crate::RequestQueue::priorities). Others ignore it.
    pub fn priority(mut self, priority: u8) -> Self {
        self.plan(|plan| {
            plan.priority = Some(priority);
            Ok(())
        });
        self
    }

    /// Changes the plan of a call that has not begun; the first thing that does not fit is what the call fails with.
    fn plan(&mut self, change: impl FnOnce(&mut CallPlan) -> Result<(), InvalidCall>) {
        if let State::Planned(Planned { plan, .. }) = &mut self.state
            && let Ok(planned) = plan
            // Nobody else has it before it begins.
            && let Some(planned) = Arc::get_mut(planned)
            && let Err(reason) = change(planned.plan_mut())
        {
            *plan = Err(reason);
        }
    }
}

impl<T, E> Future for Call<T, E> {
    type Output = Result<T, CallError<E>>;

    /// # Panics
    ///
    /// If polled again after it was ready, as futures do.
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Planned(Planned {
                path,
                plan: Ok(call),
                read,
            }) => State::Running(Running {
                reply: path.call(call),
                read,
            }),
            State::Planned(Planned {
                plan: Err(reason), ..
            }) => {
                return Poll::Ready(Err(CallError::from(reason).widen()));
            }
            State::Ready(outcome) => return Poll::Ready(outcome()),
            begun => begun,
        };
        let State::Running(running) = &mut self.state else {
            panic!("a call was polled again after it had ended");
        };
        let outcome = std::task::ready!(running.reply.as_mut().poll(cx));
        let read = running.read;
        self.state = State::Ended;
        Poll::Ready(outcome.map_err(CallError::widen).and_then(read))
    }
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut call = f.debug_struct("Call");
        match &self.state {
            State::Planned(Planned {
                plan: Ok(planned), ..
            }) => call.field("plan", planned.plan()),
            State::Planned(_) => call.field("state", &"not sendable"),
            State::Running(_) => call.field("state", &"running"),
            State::Ready(_) => call.field("state", &"ready"),
            State::Ended => call.field("state", &"ended"),
        };
        call.finish_non_exhaustive()
    }
}
