//! Layers around calls and around the methods of a worker, as [`tower`](https://docs.rs/tower) knows them.
//!
//! A client's layers see each of its calls as an [`OutgoingCall`] and its outcome as a [`CallReply`] or a
//! [`CallError`](crate::CallError). A server's layers see each request as an [`IncomingCall`], and its outcome as an
//! [`Answer`](crate::Answer) or a [`Fault`](crate::Fault). Both are [`tower_service::Service`]s, so tower's own layers work as they are,
//! and a layer of one's own is one for tower:
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
//! // A worker that has no more than eight requests at a service it uses itself, and says so at once where that is too few.
//! let server = Server::new(&broker)
//!     .layer(LoadShedLayer::new())
//!     .layer(ConcurrencyLimitLayer::new(8))
//!     .serve(DirectoryServer::new(Users))
//!     .start()
//!     .await?;
//!
//! // A caller that makes no more than a hundred calls a second.
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
//! The first layer that is added sees a call first and its outcome last, as with tower's `ServiceBuilder`. A layer learns from the next
//! one whether that is ready: in the example, `LoadShed` sheds what `ConcurrencyLimit` is not ready for.
//!
//! # One stack for all
//!
//! The layers of a client are shared by its clones, those of a server by all its services and queues; only the
//! [built-in methods](crate::discovery) have a stack of their own, made of the same layers, so that a worker at its limits still answers
//! how it is. A layer's service need not be
//! `Clone`: calls ask it one after another whether it is ready, in the order in which they came, and no longer than their deadline. What
//! they do then runs side by side.
//!
//! # Time and repetition
//!
//! A call has one deadline, set when it is first polled. Layers cannot extend it: each attempt that a layer makes, such as those of
//! tower's `Retry`, has what is left. Each attempt is a request of its own to the worker: repeat what
//! [may be](OutgoingCall::method), which `is_idempotent` says, and errors with [`is_retryable`](crate::CallError::is_retryable), not before
//! [`retry_after`](crate::CallError::retry_after), and with a budget such as tower's `TpsBudget`: retries without a limit keep an overload going.
//! The final error tells of all attempts whether the method may have run.
//!
//! # Cost
//!
//! A client or server without layers has none. With layers, a call takes some allocations and a lock more.

pub use crate::client::middleware::{CallLayer, CallReply, CallService, OutgoingCall};
pub use crate::service::Extensions;
pub use crate::service::middleware::{Authorize, BoxError, Handler, HandlerLayer, IncomingCall};
