//! The request that a handler serves.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::admission::Received;
use super::cancellation::Cancellations;
use super::extensions::Extensions;
use super::redelivery::redelivery_count;
use crate::protocol::{
    FIRST_TRACE_HEADER, Headers, RESENT_BY_CALLER_AND_WORKER, RESENT_BY_WORKER, RESENT_HEADER, Request,
    RequestId, ShortStr, check_not_reserved, failed_attempts, insert_user_header,
};

/// The request that a handler serves, without its arguments.
///
/// A method receives it in a parameter marked `#[rpc(context)]`. Callers do not see that parameter.
/// Unit tests of a handler make one with [`for_test`](Self::for_test).
///
/// ```
/// use rpc_runtime::{Context, service};
///
/// #[service]
/// pub trait Audit {
///     async fn record(&self, #[rpc(context)] cx: &Context, event: &str);
/// }
///
/// struct Log;
///
/// impl Audit for Log {
///     async fn record(&self, cx: &Context, event: &str) {
///         println!("{event} by {:?} of tenant {:?}", cx.user_id(), cx.headers().get("tenant"));
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    method: &'static str,
    correlation_id: Option<ShortStr>,
    deadline: Option<Instant>,
    queue_time: Duration,
    redelivered: bool,
    /// Whether its caller has sent it before, or a worker forwarded it.
    is_resent: bool,
    attempt: u32,
    first_attempt_trace: Option<Box<str>>,
    app_id: Option<ShortStr>,
    user_id: Option<ShortStr>,
    priority: Option<u8>,
    headers: Headers,
    extensions: Extensions,
    /// The cancelled calls of the queue. `None` if no message can cancel this request.
    cancellations: Option<Arc<Cancellations>>,
}

/// Why a caller no longer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallerGone {
    /// The call is cancelled: by its caller, or by this worker, because the sender of its items is
    /// gone or has sent the request again.
    Cancelled,
    /// The deadline has passed.
    DeadlinePassed,
}

impl Context {
    /// Returns the context of a request. Takes its headers, `app_id` and `user_id` out of it.
    pub(crate) fn new(
        method: &'static str,
        request: &mut Request,
        received: Received,
        redelivered: bool,
    ) -> Self {
        let mut headers = std::mem::take(&mut request.headers);
        let resent_by = headers.get(RESENT_HEADER);
        let is_resent = resent_by.is_some();
        // Workers forward only requests that were redelivered.
        let is_forwarded = matches!(resent_by, Some(RESENT_BY_WORKER | RESENT_BY_CALLER_AND_WORKER));
        // A redelivered job returns to its queue as a copy with a count, without `RESENT_HEADER`.
        let has_counted_redeliveries = redelivery_count(&headers) > 0;
        let attempt = failed_attempts(&headers).saturating_add(1);
        let first_attempt_trace = headers.remove(FIRST_TRACE_HEADER).map(String::into_boxed_str);
        headers.retain(|name, _| check_not_reserved(name).is_ok());
        Self {
            method,
            correlation_id: request.correlation_id.clone(),
            deadline: request.time_to_live.and_then(|time| received.deadline(time)),
            queue_time: received.queue_time,
            redelivered: redelivered
                || request.dead_lettered.is_some()
                || is_forwarded
                || has_counted_redeliveries,
            is_resent,
            attempt,
            first_attempt_trace,
            app_id: request.app_id.take(),
            user_id: request.user_id.take(),
            priority: request.priority,
            headers,
            extensions: Extensions::default(),
            cancellations: None,
        }
    }

    /// Returns the method's name on the wire.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// Returns a context for a unit test that calls a handler directly: a first delivery of a
    /// request for this method, without a deadline and without any of the optional properties. The
    /// `with_` methods set them.
    ///
    /// ```
    /// # use rpc_runtime::{Context, service};
    /// use std::time::Duration;
    ///
    /// # #[service]
    /// # pub trait Audit {
    /// #     async fn record(&self, #[rpc(context)] cx: &Context, event: &str) -> String;
    /// # }
    /// # struct Log;
    /// impl Audit for Log {
    ///     async fn record(&self, cx: &Context, event: &str) -> String {
    ///         format!("{event} by {}", cx.user_id().unwrap_or("nobody"))
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cx = Context::for_test("record")
    ///     .with_user_id("alice")
    ///     .with_header("tenant", "acme")
    ///     .with_deadline(Duration::from_secs(1));
    /// assert_eq!(Log.record(&cx, "login").await, "login by alice");
    /// # }
    /// ```
    #[must_use]
    pub fn for_test(method: &'static str) -> Self {
        Self {
            method,
            correlation_id: None,
            deadline: None,
            queue_time: Duration::ZERO,
            redelivered: false,
            is_resent: false,
            attempt: 1,
            first_attempt_trace: None,
            app_id: None,
            user_id: None,
            priority: None,
            headers: Headers::default(),
            extensions: Extensions::default(),
            cancellations: None,
        }
    }

    /// Sets the [`user_id`](Self::user_id), for a unit test.
    ///
    /// # Panics
    ///
    /// Panics if it is longer than 255 bytes.
    #[must_use]
    pub fn with_user_id(mut self, user_id: &str) -> Self {
        self.user_id = Some(short_str(user_id));
        self
    }

    /// Sets the [`app_id`](Self::app_id), for a unit test.
    ///
    /// # Panics
    ///
    /// Panics if it is longer than 255 bytes.
    #[must_use]
    pub fn with_app_id(mut self, app_id: &str) -> Self {
        self.app_id = Some(short_str(app_id));
        self
    }

    /// Adds a header, for a unit test.
    ///
    /// # Panics
    ///
    /// Panics if a call could not send this header: its name is reserved or longer than 255 bytes,
    /// or the headers are longer than 4 KiB in total.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Err(error) = insert_user_header(&mut self.headers, name, value) {
            panic!("a call cannot send the header {name:?}: {}", error.source);
        }
        self
    }

    /// Sets the [`deadline`](Self::deadline) to this time from now, for a unit test.
    #[must_use]
    pub fn with_deadline(mut self, time_to_live: Duration) -> Self {
        self.deadline = Instant::now().checked_add(time_to_live);
        self
    }

    /// Sets the [`priority`](Self::priority), for a unit test.
    #[must_use]
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Marks the request as [`redelivered`](Self::redelivered), for a unit test.
    #[must_use]
    pub fn with_redelivery(mut self) -> Self {
        self.redelivered = true;
        self
    }

    /// Sets the [`request_id`](Self::request_id) and the [`correlation_id`](Self::correlation_id),
    /// for a unit test.
    #[must_use]
    pub fn with_request_id(mut self, id: RequestId) -> Self {
        self.correlation_id = Some(ShortStr::from_uuid(id.uuid()));
        self
    }

    /// Sets the [`attempt`](Self::attempt), for a unit test.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Adds an [extension](Self::extensions), as a layer of the server does, for a unit test.
    #[must_use]
    pub fn with_extension<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Returns the request's correlation id, or `None` if it has none. It is an opaque text that
    /// the caller chose. It is unique only if the caller makes it so.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_ref().map(ShortStr::as_str)
    }

    /// Returns the id of the request, which is the same for all its deliveries: redeliveries,
    /// copies, retries and dead letters, and what the caller sends again after a lost connection.
    /// Written in the same transaction as the effects of the method, under a unique key, it lets
    /// them happen exactly once; see [`middleware`](crate::middleware#exactly-once).
    ///
    /// All workers get a broadcast with the same id.
    ///
    /// It is the request's correlation id. `None` if that is not a UUID, or if it is the nil or the
    /// max UUID, which programs send for lack of an id. Callers of this library send a new UUID
    /// with each request, also with those that a layer of a client sends when it retries a call.
    /// Other callers must do so too: several requests with one UUID count as one.
    ///
    /// ```
    /// # use rpc_runtime::{Context, RequestId};
    /// let id = RequestId::random();
    /// let cx = Context::for_test("charge").with_request_id(id);
    /// assert_eq!(cx.request_id(), Some(id));
    /// ```
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        RequestId::of_correlation_id(self.correlation_id.as_ref()?)
    }

    /// Returns the time at which the caller stops waiting, or `None` if the request has no
    /// deadline. A request whose caller reads or sends a stream has none: its time limit holds only
    /// until the first message.
    ///
    /// RabbitMQ does not report how long a request waited in its queue. Under load the worker
    /// measures this wait (see [`Server::admission`](crate::Server::admission)) and subtracts it;
    /// otherwise the deadline counts from the request's arrival.
    ///
    /// A method that can be [cancelled](Self::cancelled) is dropped soon after its deadline. Any
    /// other method continues: check [`remaining`](Self::remaining) before long work.
    #[must_use]
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.deadline.map(Instant::into_std)
    }

    pub(crate) fn tokio_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns how long messages waited in the queue when the request arrived; see [`Received`].
    pub(crate) fn queue_time(&self) -> Duration {
        self.queue_time
    }

    /// Returns the time left until the [`deadline`](Self::deadline), zero if it has passed, or
    /// `None` if the request has no deadline.
    ///
    /// Calls that the handler makes inherit the deadline. Calls made in a task that it spawns do
    /// not.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Completes once the caller no longer waits: it dropped the call, its program closed the
    /// broker handle, or the [`deadline`](Self::deadline) has passed.
    ///
    /// A method that replies does not need this if it is `idempotent`, has `#[rpc(cancel)]` or has
    /// a stream: the worker drops its future at an `.await`, at once if the call is cancelled, and
    /// a second after the deadline. Any other method continues unless it stops by itself:
    ///
    /// ```
    /// # use rpc_runtime::{Context, service};
    /// #[service]
    /// pub trait Reports {
    ///     async fn build(&self, #[rpc(context)] cx: &Context, pages: u32) -> u32;
    /// }
    ///
    /// # struct Printer;
    /// # impl Printer { async fn print(&self, page: u32) {} }
    /// impl Reports for Printer {
    ///     async fn build(&self, cx: &Context, pages: u32) -> u32 {
    ///         for page in 0..pages {
    ///             tokio::select! {
    ///                 () = self.print(page) => {}
    ///                 // Nobody waits for the other pages.
    ///                 () = cx.cancelled() => return page,
    ///             }
    ///         }
    ///         pages
    ///     }
    /// }
    /// ```
    ///
    /// Never completes for a one-way request or a broadcast without a deadline. A caller that
    /// crashes cancels none of its calls, except those for which it sends a stream. In a unit test,
    /// only the deadline completes it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn cancelled(&self) {
        self.caller_gone(Duration::ZERO).await;
    }

    /// Waits until the call is cancelled, or `grace` has passed since the deadline. Waits forever
    /// if neither can happen.
    pub(super) async fn caller_gone(&self, grace: Duration) -> CallerGone {
        let watch = self.cancellations.as_ref().zip(self.request_id());
        let watch = watch.map(|(cancellations, id)| cancellations.watch(id.uuid()));
        let cancelled = async {
            match &watch {
                Some(watch) => watch.cancelled().await,
                None => pending().await,
            }
        };
        let deadline_passed = async {
            match self.deadline.and_then(|deadline| deadline.checked_add(grace)) {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancelled => CallerGone::Cancelled,
            () = deadline_passed => CallerGone::DeadlinePassed,
        }
    }

    /// Lets the caller cancel this request.
    pub(super) fn allow_cancellation(&mut self, cancellations: &Arc<Cancellations>) {
        self.cancellations = Some(Arc::clone(cancellations));
    }

    /// Whether the broker delivered this request before, or another queue
    /// [dead-lettered](crate::RequestQueue::dead_letter_to) it: an earlier worker may have started
    /// or even finished it.
    ///
    /// A method sees `true` only if it is marked `idempotent`: other methods are not run again.
    /// Layers may see `true` for any method.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Returns which attempt of a job this is. The first is 1, and each failed attempt adds 1.
    /// Deliveries that were lost with their worker do not count. Other requests have only one.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the trace context of a job's first sampled attempt, in W3C's format. `None` if no
    /// earlier attempt was sampled.
    pub(crate) fn first_attempt_trace(&self) -> Option<&str> {
        self.first_attempt_trace.as_deref()
    }

    /// Whether an earlier delivery, or an earlier request of the same call, may have run.
    pub(crate) fn may_have_run_before(&self) -> bool {
        self.redelivered || self.is_resent
    }

    /// Returns the application name that the caller sent. The broker does not check it.
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        self.app_id.as_ref().map(ShortStr::as_str)
    }

    /// Returns the RabbitMQ user that sent the request. `None` if the caller did not send the user,
    /// or if the request is the copy of a job that was retried, delayed or redelivered. The broker
    /// has [validated it](https://www.rabbitmq.com/docs/validated-user-id) against the caller's
    /// connection, so the user can be trusted. Only a user with the tag `impersonator` can send
    /// another user's name.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_ref().map(ShortStr::as_str)
    }

    /// Returns the request's priority, or `None` if the caller did not set one.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.priority
    }

    /// Returns the request's headers, without the [reserved](Headers) ones.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns the values that the server's [layers](crate::middleware) added.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    pub(crate) fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

fn short_str(text: &str) -> ShortStr {
    ShortStr::new(text).unwrap_or_else(|error| panic!("{text:?} cannot be sent: {error}"))
}

tokio::task_local! {
    /// The deadline that calls of the current task inherit.
    static AMBIENT_DEADLINE: Option<Instant>;
}

/// Runs a future whose calls inherit `deadline`: a handler, or a stream that its call sends.
pub(crate) async fn with_ambient_deadline<F: Future>(deadline: Option<Instant>, running: F) -> F::Output {
    AMBIENT_DEADLINE.scope(deadline, running).await
}

/// Returns the deadline that a call inherits from the request that the current task serves. `None`
/// if that request has no deadline, or if the task serves none.
pub(crate) fn ambient_deadline() -> Option<Instant> {
    AMBIENT_DEADLINE.try_with(|deadline| *deadline).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_context_has_what_was_set() {
        let cx = Context::for_test("record");
        assert_eq!(
            (cx.method(), cx.deadline(), cx.redelivered()),
            ("record", None, false)
        );
        assert!(cx.headers().is_empty() && cx.user_id().is_none());
        let id = RequestId::random();
        let cx = cx
            .with_user_id("alice")
            .with_app_id("shop")
            .with_header("tenant", "acme")
            .with_deadline(Duration::from_secs(60))
            .with_priority(7)
            .with_redelivery()
            .with_request_id(id)
            .with_extension(8_u32);
        assert_eq!(
            (cx.user_id(), cx.app_id(), cx.priority()),
            (Some("alice"), Some("shop"), Some(7))
        );
        assert_eq!(
            (cx.request_id(), cx.headers().get("tenant")),
            (Some(id), Some("acme"))
        );
        assert!(cx.remaining().is_some_and(|left| left > Duration::from_secs(50)));
        assert!(cx.redelivered() && cx.extensions().get::<u32>() == Some(&8));
    }

    #[test]
    #[should_panic(expected = "a call cannot send the header \"x-death\"")]
    fn a_test_context_refuses_reserved_headers() {
        let _ = Context::for_test("record").with_header("x-death", "");
    }
}
