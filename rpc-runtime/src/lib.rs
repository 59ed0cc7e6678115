//! Typed RPC over RabbitMQ.
#![doc = include_str!("../README.md")]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// So that the attribute's absolute paths work in this crate's own tests and examples.
#[allow(unused_extern_crates)]
extern crate self as rpc_runtime;

mod broker;
mod call;
mod client;
mod codec;
mod context;
mod describe;
mod error;
mod headers;
mod protocol;
mod server;
mod transport;

pub use rpc_macros::service;

pub use broker::{Broker, BrokerBuilder, ReplyQueue};
pub use call::{Call, FallibleCall, ResultType};
pub use client::{ClientBuilder, ServiceClient};
pub use codec::{Codec, DecodeError, EncodeError};
pub use context::Context;
pub use describe::{MethodDescriptor, ServiceDescriptor};
pub use error::{BrokerError, CallError, Cause, Executed, InvalidName, ServerError};
pub use headers::Headers;
pub use protocol::{Fault, FaultCode, ReplyAddresses};
pub use server::{Answer, Invocation, QueueArgument, RequestQueue, RunningServer, Server, Service};
pub use transport::memory::InProcessBroker;

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
        ByteSlice, CowBytes, CowStr, DecodeArguments, Derived, EncodeArguments, bytes,
    };
    pub use crate::server::{Readable, ViaDisplay, ViaSerialize};
}

/// The reference of the attribute, tested with the other documentation.
#[cfg(doctest)]
#[doc = include_str!("../service-trait.md")]
struct ServiceTraitReference;
