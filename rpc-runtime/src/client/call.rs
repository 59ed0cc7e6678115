//! The call that a client's method returns.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::call_path::CallPath;
use super::in_flight_call::InFlightCall;
use super::invalid_call::InvalidCall;
use super::plan::CallPlan;
use crate::error::CallError;
use crate::protocol::{MAX_DELAY, Reply, insert_user_header, set_remaining_delay};
use crate::service::ResultType;

/// A call of a remote method. Await it to send the request and to get the method's result.
///
/// The arguments are already encoded, so a call borrows nothing: it is `Send + 'static` and can be
/// spawned, collected and joined. Nothing is sent before the call is first polled. Its time limit
/// starts then.
///
/// Set options before `.await`:
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
/// Dropping a call stops waiting for its reply; a late reply is discarded. A request that was not
/// sent is withdrawn. A one-way request that was sent runs. Any other request that was sent is
/// cancelled: it does not run if it has not begun, and if its method is `idempotent`, receives a
/// stream or is marked `#[rpc(cancel)]`, the worker drops the method's future. Any other method
/// runs to its end. The same happens if the call times out. A stream that the call sends is dropped
/// with it.
///
/// The caller does not learn whether the method ran. To let a method run, keep the call, for
/// example in a task.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<T, E = Infallible> {
    state: State<T, E>,
}

/// A call of a method that returns the `Result` type `R`: [`Call<T, E>`](Call) for a
/// `Result<T, E>`, or for an alias of it.
pub type FallibleCall<R> = Call<<R as ResultType>::Ok, <R as ResultType>::Err>;

/// Reads the method's result from a reply.
pub(crate) type ReadReply<T, E> = fn(Reply) -> Result<T, CallError<E>>;

enum State<T, E> {
    Planned(Planned<T, E>),
    Running(Running<T, E>),
    /// See [`Call::ready`]. A closure, so that the call is `Send` and `Unpin` whatever `T` is.
    Ready(Box<dyn FnOnce() -> Result<T, CallError<E>> + Send>),
    Ended,
}

struct Planned<T, E> {
    path: CallPath,
    call: Result<Arc<InFlightCall>, InvalidCall>,
    read: ReadReply<T, E>,
}

struct Running<T, E> {
    reply: BoxFuture<'static, Result<Reply, CallError>>,
    read: ReadReply<T, E>,
}

impl<T, E> Call<T, E> {
    pub(crate) fn new(
        path: CallPath,
        call: Result<Arc<InFlightCall>, InvalidCall>,
        read: ReadReply<T, E>,
    ) -> Self {
        Self {
            state: State::Planned(Planned { path, call, read }),
        }
    }

    /// Creates a call that sends nothing and returns `outcome`. Options have no effect on it.
    ///
    /// For mocks of clients in tests, which have to return what the client returns.
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
    ///         Call::ready(Err(CallError::no_server("Directory")))
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

    /// Sets how long the call may take. The broker drops a request that still waits in the queue
    /// after that time, but keeps a one-way request. A method that is `idempotent` or marked
    /// `#[rpc(cancel)]` is cancelled then.
    ///
    /// If the call sends a stream, this limits the time until the method begins, and then each time
    /// without progress of the method. It does not limit how long the stream takes.
    ///
    /// The default is the method's own `timeout`, or else the client's, which is 30 seconds unless
    /// set. In a handler, the call also ends at the handler's own deadline, unless it is
    /// [`detached`](Self::detached).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.change_plan(|plan| {
            plan.timeout = limit;
            Ok(())
        });
        self
    }

    /// Detaches the call from the handler that makes it: the call has its whole time limit, even
    /// after the handler's deadline.
    ///
    /// For calls that undo something, which must be made even if the handler's caller no longer
    /// waits.
    ///
    /// ```
    /// # use rpc_runtime::{CallError, service};
    /// # #[service]
    /// # pub trait Stock { async fn release(&self, id: u64); }
    /// # #[service]
    /// # pub trait Payment { async fn charge(&self, id: u64); }
    /// # async fn example(stock: StockClient, payment: PaymentClient, id: u64)
    /// # -> Result<(), CallError> {
    /// if let Err(error) = payment.charge(id).await {
    ///     stock.release(id).detached().await?;
    ///     return Err(error);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn detached(mut self) -> Self {
        self.change_plan(|plan| {
            plan.is_detached = true;
            Ok(())
        });
        self
    }

    /// Adds a header to the request, or replaces the value of a header with the same name.
    ///
    /// The call fails with [`CallError::Invalid`] if the name is [reserved](crate::Headers) or
    /// longer than 255 bytes, or if all headers together exceed 4 KiB.
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.change_plan(|plan| Ok(insert_user_header(&mut plan.headers, name, value)?));
        self
    }

    /// Sets the request's priority. Requests with a higher priority overtake others in a classic
    /// queue that was declared with [`priorities`](crate::RequestQueue::priorities). RabbitMQ 4
    /// always orders quorum queues by priority. Other queues ignore it. Among the calls of a client
    /// that wait [to be in flight](crate::ClientBuilder::max_in_flight), those with a higher
    /// priority go first.
    pub fn priority(mut self, priority: u8) -> Self {
        self.change_plan(|plan| {
            plan.priority = Some(priority);
            Ok(())
        });
        self
    }

    /// Delays a job: it runs this long after a worker has received it.
    ///
    /// The job waits in retry queues at the broker. The delay is rounded up to a tenth of a second
    /// and to two significant digits: 3,660 s become 3,700 s. A long delay consists of several
    /// waits, of which a worker starts the next. If none is connected when a wait ends, the rest of
    /// the delay begins once one connects. A client
    /// [without a broker](crate::ClientBuilder::in_process) ignores the delay.
    ///
    /// The call fails with [`CallError::CannotDelay`] if the method is not a job (`#[rpc(oneway,
    /// idempotent)]`), or if the delay is longer than 30 days.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.change_plan(|plan| {
            if !plan.method.is_job() || delay > MAX_DELAY {
                let method = plan.method.name().to_owned();
                return Err(InvalidCall::CannotDelay { method, delay });
            }
            set_remaining_delay(&mut plan.headers, delay);
            Ok(())
        });
        self
    }

    /// Returns the call and its path. `None` if it has begun, or was made with
    /// [`ready`](Self::ready).
    pub(super) fn into_planned(self) -> Option<(CallPath, Result<Arc<InFlightCall>, InvalidCall>)> {
        match self.state {
            State::Planned(Planned { path, call, .. }) => Some((path, call)),
            State::Running(_) | State::Ready(_) | State::Ended => None,
        }
    }

    /// Changes the plan of a call that has not begun. The call fails with the first error.
    pub(super) fn change_plan(&mut self, change: impl FnOnce(&mut CallPlan) -> Result<(), InvalidCall>) {
        if let State::Planned(Planned { call, .. }) = &mut self.state {
            change_plan(call, change);
        }
    }
}

/// Changes the plan of a call that has not begun. The call fails with the first error.
pub(super) fn change_plan(
    call: &mut Result<Arc<InFlightCall>, InvalidCall>,
    change: impl FnOnce(&mut CallPlan) -> Result<(), InvalidCall>,
) {
    if let Ok(planned) = call
        // A call that has not begun has no other owner.
        && let Some(planned) = Arc::get_mut(planned)
        && let Err(reason) = change(planned.plan_mut())
    {
        *call = Err(reason);
    }
}

impl<T, E> Future for Call<T, E> {
    type Output = Result<T, CallError<E>>;

    /// # Panics
    ///
    /// Panics if it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Planned(Planned {
                path,
                call: Ok(call),
                read,
            }) => State::Running(Running {
                reply: path.call(call),
                read,
            }),
            State::Planned(Planned {
                call: Err(reason), ..
            }) => {
                return Poll::Ready(Err(CallError::from(reason).widen()));
            }
            State::Ready(outcome) => return Poll::Ready(outcome()),
            running_or_ended => running_or_ended,
        };
        let State::Running(running) = &mut self.state else {
            panic!("`Call` polled after completion");
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
                call: Ok(planned), ..
            }) => call.field("plan", planned.plan()),
            State::Planned(_) => call.field("state", &"not sendable"),
            State::Running(_) => call.field("state", &"running"),
            State::Ready(_) => call.field("state", &"ready"),
            State::Ended => call.field("state", &"ended"),
        };
        call.finish_non_exhaustive()
    }
}
