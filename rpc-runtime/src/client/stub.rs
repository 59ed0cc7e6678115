//! The client that generated clients wrap.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::call::{Call, FallibleCall};
use super::call_path::CallPath;
use super::called_method::CalledMethod;
use super::destination::Destination;
use super::in_flight_call::InFlightCall;
use super::invalid_call::InvalidCall;
use super::plan::{Arguments, CallPlan};
use crate::codec::{Codec, DecodeError, EncodeError};
use crate::describe::MethodDescriptor;
use crate::error::CallError;
use crate::protocol::{
    BadReply, EncodeArguments, Executed, Headers, InvalidName, NamedArguments, Reply, ReplyKind,
};
use crate::service::ResultType;

/// The untyped client that a generated client wraps. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) path: CallPath,
    /// The error if the queue's name is invalid. Each call returns it.
    pub(super) destination: Result<Arc<Destination>, InvalidName>,
    pub(super) codec: Codec,
    pub(super) timeout: Duration,
    pub(super) wait_for_server: bool,
}

impl Client {
    /// Calls a method that returns a plain value.
    // Not `DeserializeOwned`: serde's diagnostics explain this bound if a type does not meet it.
    pub fn call<T: for<'de> Deserialize<'de> + 'static>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> Call<T> {
        Call::new(
            self.path.clone(),
            self.plan_typed(method, &arguments),
            read_value::<T>,
        )
    }

    /// Calls a method that returns a `Result`.
    pub fn call_fallible<R>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> FallibleCall<R>
    where
        R: ResultType<Ok: for<'de> Deserialize<'de> + 'static, Err: for<'de> Deserialize<'de>>,
    {
        Call::new(
            self.path.clone(),
            self.plan_typed(method, &arguments),
            read_result::<R>,
        )
    }

    fn plan_typed(
        &self,
        method: &'static MethodDescriptor,
        arguments: &impl EncodeArguments,
    ) -> Result<Arc<InFlightCall>, InvalidCall> {
        self.plan(CalledMethod::Static(method), |codec| {
            codec.encode(&NamedArguments {
                names: method.arguments,
                values: arguments,
            })
        })
    }

    /// Plans a call of a method.
    pub(super) fn plan(
        &self,
        method: CalledMethod,
        arguments: impl FnOnce(Codec) -> Result<Bytes, EncodeError>,
    ) -> Result<Arc<InFlightCall>, InvalidCall> {
        let destination = self.destination.clone().map_err(|source| InvalidCall::Invalid {
            what: "the queue's name",
            source,
        })?;
        Ok(Arc::new(InFlightCall::new(CallPlan {
            method_index: destination.method(method.name()),
            destination,
            codec: self.codec,
            arguments: Arguments(arguments(self.codec).map_err(InvalidCall::Encode)?),
            timeout: method.timeout().unwrap_or(self.timeout),
            method,
            headers: Headers::default(),
            priority: None,
            wait_for_server: self.wait_for_server,
            is_detached: false,
        })))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field(
                "queue",
                &self.destination.as_ref().map(|destination| &destination.queue),
            )
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

/// Reads the reply of a method that returns a plain value.
fn read_value<T: DeserializeOwned + 'static>(reply: Reply) -> Result<T, CallError<Infallible>> {
    match reply.kind {
        ReplyKind::Result => read_answer(&reply),
        ReplyKind::Error => Err(unreadable(
            "the worker sent an error, but the method returns none",
        )),
        ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
    }
}

/// Reads the reply of a method that returns a `Result`.
fn read_result<R>(reply: Reply) -> Result<R::Ok, CallError<R::Err>>
where
    R: ResultType<Ok: DeserializeOwned + 'static, Err: DeserializeOwned>,
{
    match reply.kind {
        ReplyKind::Result => read_answer(&reply),
        ReplyKind::Error => Err(match (reply.codec.decode_reply(&reply.body), reply.codec) {
            (Ok(error), _) => CallError::Service(error),
            (Err(_), Codec::Text) => {
                CallError::ServiceText(String::from_utf8_lossy(&reply.body).into_owned())
            }
            (Err(error), _) => unreadable(error),
        }),
        ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
    }
}

fn read_answer<T: DeserializeOwned + 'static, E>(reply: &Reply) -> Result<T, CallError<E>> {
    match reply.codec.decode_answer(&reply.body) {
        Ok(answer) => Ok(answer),
        Err(error) => Err(no_result(reply, error)),
    }
}

/// The error of a reply whose body is not the method's result.
pub(super) fn no_result<E>(reply: &Reply, error: DecodeError) -> CallError<E> {
    match &reply.unknown_type {
        None => unreadable(error),
        // A foreign worker may have refused the request in terms of its own.
        Some(kind) => CallError::BadReply {
            source: BadReply::UnknownType(kind.clone(), error).into(),
            executed: Executed::Maybe,
        },
    }
}

/// The error of a reply that holds an unreadable result or error of the method: the method ran.
pub(super) fn unreadable<E>(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError<E> {
    CallError::BadReply {
        source: source.into(),
        executed: Executed::Yes,
    }
}
