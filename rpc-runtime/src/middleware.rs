//! Middleware: [`tower`](https://docs.rs/tower) layers around calls and around the methods of a
//! worker.
//!
//! A client's layers see each call as an [`OutgoingCall`], and its outcome as a [`CallReply`] or a
//! [`CallError`](crate::CallError). A server's layers see each request as an [`IncomingCall`], and
//! its outcome as an [`Answer`](crate::Answer) or a [`Fault`](crate::Fault). On both sides, layers
//! wrap a [`tower_service::Service`]: tower's own layers work unchanged, and a custom layer is an
//! ordinary tower layer:
//!
//! ```
//! # use std::time::Duration;
//! # use rpc_runtime::{Broker, Server, service};
//! # use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
//! # use tower::load_shed::LoadShedLayer;
//! # #[service]
//! # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
//! # struct Users;
//! # impl Directory for Users {
//! #     async fn get_email(&self, id: &str) -> String { format!("{id}@example.com") }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::in_process();
//! // A worker that runs at most eight requests at once and rejects further ones.
//! let server = Server::new(&broker)
//!     .layer(LoadShedLayer::new())
//!     .layer(ConcurrencyLimitLayer::new(8))
//!     .serve(DirectoryServer::new(Users))
//!     .start()
//!     .await?;
//!
//! // A caller that makes at most a hundred calls per second.
//! let directory = DirectoryClient::builder(&broker)
//!     .layer(RateLimitLayer::new(100, Duration::from_secs(1)))
//!     .build();
//! assert_eq!(directory.get_email("alice").await?, "alice@example.com");
//! # server.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Order
//!
//! The layer that is added first sees a call first and its outcome last, as with tower's
//! `ServiceBuilder`. A layer asks the next one whether it is ready: in the example, `LoadShed`
//! rejects the calls for which `ConcurrencyLimit` is not ready.
//!
//! The compiler checks each layer separately, so that an error names the layer whose types do not
//! fit. Layers that fit only around each other, for example because one changes the type of the
//! call, must be added together as one `ServiceBuilder`.
//!
//! # Shared layers
//!
//! All clones of a client share its layers. All services and queues of a server share the server's
//! layers, except for the [built-in methods](crate::discovery), which have a separate instance of
//! them: a worker at its limits still answers a ping. A layer's service does not have to be
//! `Clone`, even if an outer layer, such as `Retry`, clones what it wraps: the clones share the
//! service. Calls wait in order of arrival until the service is ready, at most until their
//! deadline. Their futures then run concurrently.
//!
//! # Errors
//!
//! What a layer wraps always fails with the same type of error: a [`CallError`](crate::CallError)
//! around calls, a [`Fault`](crate::Fault) around methods. If an inner layer fails with another
//! type, its error becomes [`CallError::Middleware`](crate::CallError::Middleware), or the fault
//! `rejected` or `abandoned`. So a retry policy works at any place in the order.
//!
//! # Deadline and retries
//!
//! A call has one deadline, which is set when its future is first polled. Layers cannot extend it:
//! each attempt of a retrying layer, such as tower's `Retry`, gets the time that is left. Each
//! attempt is a separate request to the worker. So retry a call only if it
//! [`is_idempotent`](OutgoingCall::is_idempotent) or its error
//! [`is_retryable`](crate::CallError::is_retryable). Wait for
//! [`retry_after`](crate::CallError::retry_after), and use a budget such as tower's `TpsBudget`:
//! unlimited retries prolong an overload. The final error accounts for all attempts when it tells
//! whether the method may have run.
//!
//! # Streams
//!
//! The future of a call with a stream ends with the stream. Until then, a layer can see each item:
//! [`OutgoingCall::observe_items`], [`IncomingCall::observe_items`]. How many there were is in
//! [`ItemCounts`].
//!
//! # Exactly once
//!
//! A request may be delivered twice, so no library can run a method exactly once. Its effects in a
//! database can happen exactly once: write [`Context::request_id`](crate::Context::request_id) in
//! the same transaction, under a unique key. The second delivery changes nothing then.
//!
//! [`Idempotency`] answers repeated requests with the outcome of the first delivery.
//!
//! The layers of a server also see a call that must not run again, because it was delivered before
//! and its method is not `idempotent`: [`IncomingCall::may_run`] is `false`. Unless a layer answers
//! it, its caller gets the fault `interrupted`.
//!
//! # Cost
//!
//! A client or server without layers pays nothing. Each layer that is added costs a call a
//! few allocations and locks; layers that a `ServiceBuilder` combines count as one.

pub use crate::client::middleware::{CallLayer, CallReply, CallService, OutgoingCall};
pub use crate::service::Extensions;
pub use crate::service::middleware::{
    Authorize, BoxError, Handler, HandlerLayer, Idempotency, IdempotencyStore, InMemoryStore, IncomingCall,
    StoredOutcome,
};
pub use crate::telemetry::{ItemCounts, SentBy, StreamItem};
