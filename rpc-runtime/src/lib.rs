#![doc = include_str!("guide.md")]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// So that the attribute's absolute paths work in this crate's own tests and examples.
#[allow(unused_extern_crates)]
extern crate self as rpc_runtime;

mod batching;
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
mod escape;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod host;
pub mod middleware;
mod protocol;
mod server;
#[cfg(test)]
mod simulation;
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
#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
#[cfg(feature = "tls")]
pub use transport::amqp::Tls;
pub use transport::memory::InProcessBroker;
pub use transport::{QueueArgument, ReplyQueue, RequestQueue, Status, StatusChanges};

#[cfg(any(test, feature = "panics"))]
#[doc(hidden)]
pub use transport::injected as __panics;

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

    pub use crate::__needs_feature_schema as needs_feature_schema;
    pub use crate::call::{NoResult, Probe};
    pub use crate::client::Client;
    pub use crate::describe::schemas::{Describable, MethodSchemas, SchemaOf, SchemaOfOther, Schemas};
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
