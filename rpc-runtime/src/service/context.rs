//! What a handler may know of the request it serves.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::admission::Received;
use super::extensions::Extensions;
use crate::protocol::{
    Headers, RESENT_AND_SENT_ON, RESENT_HEADER, Request, SENT_ON, ShortStr, reserved_header,
};

/// The request that a handler serves, beside its arguments.
///
/// A method asks for it with a parameter marked `#[rpc(context)]`; callers do not see that parameter.
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
    is_resent: bool,
    app_id: Option<ShortStr>,
    user_id: Option<ShortStr>,
    priority: Option<u8>,
    headers: Headers,
    extensions: Extensions,
}

impl Context {
    /// Takes what belongs here out of a request that was received so.
    pub(crate) fn new(
        method: &'static str,
        request: &mut Request,
        received: Received,
        redelivered: bool,
    ) -> Self {
        let mut headers = std::mem::take(&mut request.headers);
        let resent = headers.get(RESENT_HEADER);
        let is_resent = resent.is_some();
        let is_copy = resent.is_some_and(|by| matches!(by, SENT_ON | RESENT_AND_SENT_ON));
        headers.retain(|name| reserved_header(name).is_none());
        Self {
            method,
            correlation_id: request.correlation_id.clone(),
            deadline: request.time_to_live.and_then(|time| received.deadline(time)),
            queue_time: received.queue_time,
            redelivered: redelivered || request.dead_lettered.is_some() || is_copy,
            is_resent,
            app_id: request.app_id.take(),
            user_id: request.user_id.take(),
            priority: request.priority,
            headers,
            extensions: Extensions::default(),
        }
    }

    /// The method's name on the wire.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    pub(crate) fn static_method(&self) -> &'static str {
        self.method
    }

    /// The request's correlation id: opaque, as the caller chose it. Unique only if the caller is well-behaved.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_ref().map(ShortStr::as_str)
    }

    /// When the caller stops waiting; `None` where it did not say.
    ///
    /// RabbitMQ does not say how long a request waited in its queue. Under load the worker measures it
    /// (see [`Server::admission`](crate::Server::admission)), and the deadline allows for it; otherwise it counts
    /// from the request's arrival. The handler is not stopped then: look at [`remaining`](Self::remaining) before
    /// work that nobody waits for.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long the request waited in its queue; zero if nothing is known of that.
    pub(crate) fn queue_time(&self) -> Duration {
        self.queue_time
    }

    /// The time left until the [`deadline`](Self::deadline); zero once it has passed.
    ///
    /// Calls that the handler makes inherit it without being told; those made in a task that it spawns do not.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the broker delivered this request before, or another queue gave it up (it was
    /// [dead-lettered](crate::RequestQueue::dead_letter_to)): an earlier worker may have begun it, or even ended it.
    ///
    /// Only methods marked `idempotent` ever see `true`.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Whether an earlier delivery or an earlier request of the same call may have been run.
    pub(crate) fn came_before(&self) -> bool {
        self.redelivered || self.is_resent
    }

    /// The application that the caller says it is.
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        self.app_id.as_ref().map(ShortStr::as_str)
    }

    /// The RabbitMQ user who sent the request. The broker has
    /// [checked it](https://www.rabbitmq.com/docs/validated-user-id) against the caller's connection, so it can be
    /// trusted; `None` where the caller did not give it.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_ref().map(ShortStr::as_str)
    }

    /// The request's priority, where the caller gave one.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.priority
    }

    /// The request's headers, without those that are [reserved](Headers).
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// What the server's [layers](crate::middleware) have found out.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    pub(crate) fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

tokio::task_local! {
    /// The deadline of the request that the current task serves.
    static AMBIENT_DEADLINE: Option<Instant>;
}

/// Runs a handler so that the calls it makes inherit its deadline.
pub(crate) async fn with_ambient_deadline<F: Future>(deadline: Option<Instant>, handler: F) -> F::Output {
    AMBIENT_DEADLINE.scope(deadline, handler).await
}

/// The deadline that a call made here inherits: that of the request being served, if there is one.
pub(crate) fn ambient_deadline() -> Option<Instant> {
    AMBIENT_DEADLINE.try_with(|deadline| *deadline).ok().flatten()
}
