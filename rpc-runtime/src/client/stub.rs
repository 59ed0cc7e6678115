//! The service-independent client that generated clients wrap.

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
use super::gather::{Broadcast, FallibleBroadcast};
use super::in_flight_call::InFlightCall;
use super::invalid_call::InvalidCall;
use super::plan::{Arguments, CallPlan};
use super::streaming::{FallibleStreamingCall, ItemInbox, ReadItems, ResumeArgument, StreamingCall};
use crate::codec::{Codec, DecodeError, EncodeError};
use crate::describe::MethodDescriptor;
use crate::error::CallError;
use crate::protocol::{
    BadReply, EncodeArguments, Executed, Headers, InvalidName, NamedArguments, Reply, ReplyKind,
};
use crate::service::ResultType;

/// The service-independent client that a generated client wraps. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) path: CallPath,
    /// `Err` if the queue name is invalid; every call then fails with it.
    pub(super) destination: Result<Arc<Destination>, InvalidName>,
    pub(super) codec: Codec,
    pub(super) timeout: Duration,
    pub(super) wait_for_server: bool,
}

impl Client {
    /// Prepares a call of a method that returns a plain value.
    // Not `DeserializeOwned`: serde's diagnostics explain this bound if a type does not meet it.
    pub fn call<T: for<'de> Deserialize<'de> + 'static>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> Call<T> {
        Call::new(
            self.path.clone(),
            self.prepare_typed_call(method, &arguments),
            read_plain::<T>,
        )
    }

    /// Prepares a call of a method that returns a `Result`.
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
            self.prepare_typed_call(method, &arguments),
            read_fallible::<R>,
        )
    }

    /// Prepares a broadcast that returns a plain value.
    pub fn broadcast<T: for<'de> Deserialize<'de> + 'static>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> Broadcast<T> {
        let call = self.prepare_typed_call(method, &arguments);
        Broadcast::new(self.path.clone(), call, read_plain::<T>)
    }

    /// Prepares a broadcast that returns a `Result`.
    pub fn broadcast_fallible<R>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> FallibleBroadcast<R>
    where
        R: ResultType<Ok: for<'de> Deserialize<'de> + 'static, Err: for<'de> Deserialize<'de>>,
    {
        let call = self.prepare_typed_call(method, &arguments);
        Broadcast::new(self.path.clone(), call, read_fallible::<R>)
    }

    /// Prepares a call of a method that returns a stream of plain values.
    pub fn stream<T: for<'de> Deserialize<'de> + 'static>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> StreamingCall<T> {
        let (call, inbox) = self.prepare_stream(method, &arguments);
        let read = ReadItems {
            item: |codec, item| codec.decode_result(item),
            array: |codec, items| codec.decode_reply(items),
            end: read_plain::<()>,
        };
        let resume = method.resumed_by.map(ResumeArgument::new::<T>);
        StreamingCall::new(self.path.clone(), call, inbox, read).resumed_by(resume)
    }

    /// Prepares a call of a method that returns a stream of `Result`s.
    pub fn stream_fallible<R>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> FallibleStreamingCall<R>
    where
        R: ResultType<Ok: for<'de> Deserialize<'de> + 'static, Err: for<'de> Deserialize<'de>>,
    {
        let (call, inbox) = self.prepare_stream(method, &arguments);
        let read = ReadItems {
            item: |codec, item| codec.decode_result(item),
            array: |codec, items| codec.decode_reply(items),
            end: read_fallible::<Result<(), R::Err>>,
        };
        let resume = method.resumed_by.map(ResumeArgument::new::<R::Ok>);
        StreamingCall::new(self.path.clone(), call, inbox, read).resumed_by(resume)
    }

    /// Encodes the arguments and prepares a call whose items go to the returned inbox.
    fn prepare_stream(
        &self,
        method: &'static MethodDescriptor,
        arguments: &impl EncodeArguments,
    ) -> (Result<Arc<InFlightCall>, InvalidCall>, Arc<ItemInbox>) {
        with_inbox(self.prepare_typed_call(method, arguments))
    }

    /// Encodes the arguments with their names, and prepares the call.
    fn prepare_typed_call(
        &self,
        method: &'static MethodDescriptor,
        arguments: &impl EncodeArguments,
    ) -> Result<Arc<InFlightCall>, InvalidCall> {
        self.prepare_call(CalledMethod::Static(method), |codec| {
            codec.encode(&NamedArguments {
                names: method.arguments,
                values: arguments,
            })
        })
    }

    /// Encodes the arguments and prepares the call.
    pub(super) fn prepare_call(
        &self,
        method: CalledMethod,
        encode_arguments: impl FnOnce(Codec) -> Result<Bytes, EncodeError>,
    ) -> Result<Arc<InFlightCall>, InvalidCall> {
        let destination = self.destination.clone().map_err(|source| InvalidCall::Invalid {
            what: "the queue's name",
            source,
        })?;
        Ok(Arc::new(InFlightCall::new(CallPlan {
            method_index: destination.method_index(method.name()),
            destination,
            codec: self.codec,
            arguments: Arguments(encode_arguments(self.codec).map_err(InvalidCall::Encode)?),
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

/// Lets the items that answer a call go to the returned inbox.
pub(super) fn with_inbox(
    call: Result<Arc<InFlightCall>, InvalidCall>,
) -> (Result<Arc<InFlightCall>, InvalidCall>, Arc<ItemInbox>) {
    let inbox = Arc::new(ItemInbox::new());
    let call = call.map(|mut call| {
        // A call that has not begun has no other owner.
        if let Some(call) = Arc::get_mut(&mut call) {
            let plan = call.plan_mut();
            plan.destination = Arc::new(plan.destination.with_inbox(Arc::clone(&inbox)));
        }
        call
    });
    (call, inbox)
}

/// Reads the reply of a method that returns a plain value.
pub(super) fn read_plain<T: DeserializeOwned + 'static>(reply: Reply) -> Result<T, CallError<Infallible>> {
    match reply.kind {
        ReplyKind::Result => decode_result(&reply),
        ReplyKind::Error => Err(unreadable_answer_error(
            "the worker sent an error, but the method does not return a `Result`",
        )),
        ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
    }
}

/// Reads the reply of a method that returns a `Result`.
fn read_fallible<R>(reply: Reply) -> Result<R::Ok, CallError<R::Err>>
where
    R: ResultType<Ok: DeserializeOwned + 'static, Err: DeserializeOwned>,
{
    match reply.kind {
        ReplyKind::Result => decode_result(&reply),
        ReplyKind::Error => Err(match reply.codec.decode_reply(&reply.body) {
            Ok(error) => CallError::Service(error),
            // Most types of errors cannot be decoded from plain text.
            Err(_) if reply.codec == Codec::Text => {
                CallError::ServiceText(String::from_utf8_lossy(&reply.body).into_owned())
            }
            Err(error) => unreadable_answer_error(error),
        }),
        ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
    }
}

/// Decodes the result of a method.
fn decode_result<T: DeserializeOwned + 'static, E>(reply: &Reply) -> Result<T, CallError<E>> {
    match reply.codec.decode_result(&reply.body) {
        Ok(result) => Ok(result),
        Err(error) => Err(undecodable_reply_error(reply, error)),
    }
}

/// Builds the error for a reply whose body cannot be decoded as what the method returns. If the
/// reply's type is unknown, its sender may not have run the method.
pub(super) fn undecodable_reply_error<E>(reply: &Reply, error: DecodeError) -> CallError<E> {
    match &reply.unknown_type {
        None => unreadable_answer_error(error),
        // A worker without this library may have sent a refusal in its own format.
        Some(kind) => CallError::BadReply {
            source: BadReply::UnknownType(kind.as_str().into(), error).into(),
            executed: Executed::Maybe,
        },
    }
}

/// Builds the error for a result or an error of the method that cannot be read. The method ran.
fn unreadable_answer_error<E>(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError<E> {
    CallError::BadReply {
        source: source.into(),
        executed: Executed::Yes,
    }
}
