//! Typed RPC over RabbitMQ: annotate a trait, implement it in a worker, call it from anywhere as if it were local.
//!
//! ```
//! use rpc_runtime::{Broker, CallError, Server, service};
//!
//! #[derive(Debug, PartialEq, thiserror::Error, serde::Serialize, serde::Deserialize)]
//! #[error("no user {id}")]
//! pub struct UnknownUser {
//!     id: String,
//! }
//!
//! /// Looks users up.
//! #[service(queue = "rpc_queue")]
//! pub trait UserDirectory {
//!     /// The e-mail address of one user.
//!     #[rpc(default, idempotent)]
//!     async fn get_email(&self, id: &str) -> Result<String, UnknownUser>;
//! }
//!
//! // The worker implements the trait …
//! struct Directory;
//!
//! impl UserDirectory for Directory {
//!     async fn get_email(&self, id: &str) -> Result<String, UnknownUser> {
//!         match id {
//!             "user:12345" => Ok("alice@example.com".into()),
//!             _ => Err(UnknownUser { id: id.into() }),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // … and serves it. `Broker::connect("amqp://localhost").await?` is RabbitMQ; this is one within the process.
//! let broker = Broker::in_process();
//! let server = Server::new(&broker).serve(UserDirectoryServer::new(Directory)).start().await?;
//!
//! // The caller has the same trait's client.
//! let directory = UserDirectoryClient::new(&broker);
//! assert_eq!(directory.get_email("user:12345").await?, "alice@example.com");
//! match directory.get_email("user:1").await {
//!     Err(CallError::Service(error)) => assert_eq!(error.id, "user:1"), // the method's own error, typed
//!     other => panic!("{other:?}"),
//! }
//! server.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Where to read on:
//!
//! - [`service`]: all that a trait can say.
//! - [`Server`]: serving, and what happens to a request. [`RequestQueue`]: how its queue is declared. [`Context`]: what a
//!   method may know of its caller.
//! - [`Call`]: time limits, headers, priorities. [`CallError`]: what can go wrong, and whether the method ran.
//! - [`Broker`]: connections, [`ReplyQueue`]s and limits; [`Broker::from_env`]: all of it from the environment. TLS: the cargo feature
//!   `tls`. [`InProcessBroker`]: without RabbitMQ, for tests.
//! - [`DynamicClient`]: calls of services that are known only when the program runs.
//! - [`Codec`]: MessagePack, JSON and plain text.
//! - [`middleware`]: limits, retries and what else there is for [`tower`](https://docs.rs/tower), around calls and methods; who may call what.
//! - [`describe`]: what a service is, as data. [`discovery`]: what workers say of themselves, and how to find them.
//!
//! `docs/protocol.md` in the repository describes the wire, for peers in other languages.
#![warn(clippy::print_stdout, clippy::print_stderr)]

// So that the attribute's absolute paths work in this crate's own tests and examples.
#[allow(unused_extern_crates)]
extern crate self as rpc_runtime;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod benching;
mod broker;
mod call;
mod client;
mod codec;
mod context;
pub mod describe;
pub mod discovery;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
pub mod middleware;
mod packing;
mod protocol;
mod server;
#[cfg(test)]
mod simulation;
mod status;
mod sync;
mod telemetry;
mod transport;

pub use rpc_macros::service;

pub use broker::{Broker, BrokerBuilder};
pub use call::{Call, FallibleCall, ResultType};
pub use client::{ClientBuilder, DynamicClient, InvalidDescription, ServiceClient, WhenFull};
pub use codec::{Codec, DecodeError, EncodeError};
pub use context::Context;
pub use describe::{MethodDescriptor, ServiceDescriptor};
pub use error::{BrokerError, CallError, Cause, Chain, Executed, InvalidName, ServerError, TlsFailure};
pub use headers::Headers;
pub use protocol::{Fault, FaultCode, ReplyAddresses};
pub use server::{Answer, Invocation, RunningServer, Server, Service};
pub use status::{Status, StatusChanges};
#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
#[cfg(feature = "tls")]
pub use transport::amqp::Tls;
pub use transport::memory::InProcessBroker;
pub use transport::{QueueArgument, ReplyQueue, RequestQueue};

/// The README's examples compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// What generated code uses. No part of the public interface: it may change in any release.
#[doc(hidden)]
pub mod __private {
    pub use std::borrow::Cow;
    pub use std::boxed::Box;
    pub use std::string::String;
    pub use std::sync::Arc;
    pub use std::vec::Vec;

    pub use futures_util::future::BoxFuture;
    pub use serde;

    pub use crate::call::{NoResult, Probe};
    pub use crate::client::Client;
    pub use crate::protocol::{
        ByteSlice, CowBytes, CowStr, DecodeArguments, Derived, EncodeArguments, Named, NamedAlike, bytes,
    };
    pub use crate::server::arguments::*;
    pub use crate::server::{Readable, Unreadable, ViaDisplay, ViaSerialize};
}

/// The reference of the attribute, tested with the other documentation.
#[cfg(doctest)]
#[doc = include_str!("../service-trait.md")]
struct ServiceTraitReference;

/// What is said of TLS and configuration, tested with the other documentation.
#[cfg(all(doctest, feature = "tls"))]
#[doc = include_str!("../production.md")]
struct Production;
