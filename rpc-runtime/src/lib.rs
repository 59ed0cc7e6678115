#![doc = include_str!("guide.md")]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// So that the attribute's absolute paths work in this crate's own tests and examples.
#[allow(unused_extern_crates)]
extern crate self as rpc_runtime;

// For the benchmarks of this repository. The published crate does not contain it.
#[cfg(feature = "__bench")]
#[doc(hidden)]
#[path = "../internals/benching.rs"]
pub mod benching;
mod broker;
mod client;
mod codec;
pub mod describe;
pub mod discovery;
mod error;
mod escape;
// For the fuzz targets of this repository. The published crate does not contain it.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[path = "../internals/fuzzing.rs"]
pub mod fuzzing;
mod host;
pub mod middleware;
mod protocol;
mod server;
mod service;
#[cfg(test)]
mod simulation;
mod sync;
mod telemetry;
mod transport;

pub use rpc_macros::service;

pub use broker::{Broker, BrokerBuilder};
pub use client::{
    Broadcast, Call, ClientBuilder, DynamicClient, EncodedCall, FallibleBroadcast, FallibleCall,
    FallibleStreamingCall, Gather, GatherEnd, Gathered, InvalidDescription, MethodError, ServiceClient,
    StreamingCall, WhenFull,
};
pub use codec::{Codec, DecodeError, EncodeError, UnknownName};
pub use describe::{MethodDescriptor, ServiceDescriptor};
pub use error::{BrokerError, CallError, Cause, Chain, MethodKind, ServerError, TlsFailure};
pub use protocol::{
    Executed, Fault, FaultCode, Headers, HeadersIntoIter, HeadersIter, InvalidName, InvalidRequestId,
    ReplyAddresses, RequestId, StoredFormatError,
};
pub use server::{RunningServer, Server};
pub use service::{Answer, Context, Incoming, IncomingError, Invocation, ResultType, Service};

#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
#[cfg(feature = "tls")]
pub use transport::amqp::Tls;
pub use transport::memory::InProcessBroker;
pub use transport::{QueueArgument, ReplyQueue, RequestQueue, Status, StatusChanges};

// For the tests of this workspace, to make background tasks panic.
#[cfg(any(test, feature = "__panics"))]
#[doc(hidden)]
pub use transport::injected as __panics;

/// The examples in the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples in the repository's README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../repository-readme.md")]
struct RepositoryReadme;

/// What the program `rpc` uses. Not part of the public interface: it may change in any release.
#[cfg(feature = "__tools")]
#[doc(hidden)]
pub mod __tools {
    pub use lapin;

    pub use crate::client::body_as_json;
    pub use crate::transport::amqp::{CopyOutcome, QueueReader, TakenMessage};
}

/// What generated code uses. Not part of the public interface: it may change in any release.
#[doc(hidden)]
pub mod __private {
    pub use std::borrow::Cow;
    pub use std::boxed::Box;
    pub use std::string::String;
    pub use std::sync::Arc;
    pub use std::vec::Vec;

    pub use futures_util::Stream;
    pub use futures_util::future::BoxFuture;
    pub use serde;

    pub use crate::__needs_feature_schema as needs_feature_schema;
    pub use crate::client::{Client, SendsItems};
    pub use crate::codec::{ArgumentConversion, ByteSlice, CowBytes, CowStr, NoConversion, bytes};
    pub use crate::describe::schemas::{Describable, MethodSchemas, SchemaOf, SchemaOfOther, Schemas};
    pub use crate::protocol::{DecodeArguments, Derived, EncodeArguments};
    pub use crate::service::arguments::*;
    pub use crate::service::{
        IsResult, NoResult, Readable, ResultType, Unreadable, ViaDisplay, ViaSerialize,
    };
}

/// The examples in the reference of the attribute compile and run.
#[cfg(doctest)]
#[doc = include_str!("../service-trait.md")]
struct ServiceTraitReference;

/// The examples on the page about jobs compile.
#[cfg(doctest)]
#[doc = include_str!("../jobs.md")]
struct Jobs;

/// The examples on the page about streams compile and run.
#[cfg(doctest)]
#[doc = include_str!("../streams.md")]
struct Streams;

/// The examples in the page on broadcasts compile.
#[cfg(doctest)]
#[doc = include_str!("../broadcasts.md")]
struct Broadcasts;

/// The recipes compile, and most of them run.
#[cfg(doctest)]
#[doc = include_str!("../how-to.md")]
struct HowTo;

/// The examples on the page about production compile.
#[cfg(all(doctest, feature = "tls"))]
#[doc = include_str!("../production.md")]
struct Production;
