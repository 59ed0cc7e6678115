//! A client of a service that the program knows only by its description.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use serde_json::Value;

use super::backend::Backend;
use super::builder::{ClientBuilder, Wrap};
use super::call::Call;
use super::called_method::{CalledMethod, CalledService, DescribedService, InvalidDescription};
use super::caller::Caller;
use super::exact_value::ExactValue;
use super::gather::Broadcast;
use super::in_flight_call::InFlightCall;
use super::invalid_call::InvalidCall;
use super::method_error::MethodError;
use super::streaming::{ReadItems, StreamingCall};
use super::stub::{Client, undecodable_reply_error, with_inbox};
use super::uploading::SendsItems as _;
use crate::codec::{Codec, DecodeError, EncodeError};
use crate::describe::{ArgumentDescription, MethodDescription, ServiceDescription};
use crate::error::{CallError, MethodKind};
use crate::protocol::{Reply, ReplyKind};
use crate::service::middleware::BoxError;

/// A client of a service that the program knows only by its [`ServiceDescription`]: for gateways,
/// command lines and tests.
///
/// Arguments, results and errors are JSON values. The default codec is JSON, and streams are not
/// resumed. Otherwise it works like a generated client. The description says which methods are
/// idempotent or one-way.
///
/// ```
/// # use rpc_runtime::{Broker, Server, service};
/// # #[derive(Debug, serde::Serialize, serde::Deserialize)]
/// # pub enum DirectoryError { UnknownUser { id: String } }
/// # #[service(queue = "users")]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> Result<String, DirectoryError>; }
/// # struct Users;
/// # impl Directory for Users {
/// #     async fn get_email(&self, id: &str) -> Result<String, DirectoryError> {
/// #         match id {
/// #             "user:1" => Ok("alice@example.com".into()),
/// #             _ => Err(DirectoryError::UnknownUser { id: id.into() }),
/// #         }
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rpc_runtime::discovery::WorkerClient;
/// use rpc_runtime::{CallError, DynamicClient};
/// use serde_json::json;
///
/// # let broker = Broker::in_process();
/// # let server = Server::new(&broker).serve(DirectoryServer::new(Users)).start().await?;
/// let worker = WorkerClient::new(&broker, "users").describe().await?;
/// let description = worker.service("Directory").ok_or("it is not there")?;
/// let directory = DynamicClient::new(&broker, description.clone())?;
///
/// assert_eq!(directory.call("get_email", json!({"id": "user:1"})).await?, "alice@example.com");
/// match directory.call("get_email", json!({"id": "user:2"})).await {
///     Err(CallError::Service(error)) => {
///         assert_eq!(*error.value(), json!({"UnknownUser": {"id": "user:2"}}));
///     }
///     other => panic!("{other:?}"),
/// }
/// # server.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DynamicClient {
    client: Client,
    service: Arc<DescribedService>,
    description: Arc<ServiceDescription>,
}

impl DynamicClient {
    /// Returns a builder of a client whose calls go through a broker, by default as JSON.
    pub(crate) fn with_caller(
        caller: Arc<Caller>,
        description: ServiceDescription,
    ) -> Result<ClientBuilder<Self>, InvalidDescription> {
        let service = Arc::new(DescribedService::new(&description)?);
        let description = Arc::new(description);
        let called = CalledService::Described(Arc::clone(&service));
        let wrap = Box::new(move |client| Self {
            client,
            service,
            description,
        });
        let builder = ClientBuilder::with_backend(Backend::Broker(caller), called, Wrap::Described(wrap));
        Ok(builder.codec(Codec::Json))
    }

    /// Returns the description of the service that is called.
    #[must_use]
    pub fn description(&self) -> &ServiceDescription {
        &self.description
    }

    /// Calls a method by its name on the wire.
    ///
    /// Pass the arguments as a map by name, as an array by position, or as `()` if there are none.
    /// An array may leave out the last arguments. A map must not have names that are not in the
    /// description. If a required argument is missing, the worker refuses the call. If the codec is
    /// plain text, a method may have one argument at most, and the call fails with
    /// `CallError::Encode` if that is missing, even if it is not required.
    ///
    /// If the method returns nothing, the result is `null`, or an empty string if the codec is
    /// plain text. If the method replies with a stream, the result is an array of all items, or a
    /// text with a line for each if the codec is plain text; see [`stream`](Self::stream).
    ///
    /// # Errors
    ///
    /// The call fails with
    ///
    /// - [`CallError::NotDescribed`] if the description has no such method,
    /// - [`CallError::WrongKind`] if the method is a broadcast with answers, or receives a stream;
    ///   see [`broadcast`](Self::broadcast) and [`call_with_items`](Self::call_with_items),
    /// - [`CallError::Encode`] if the arguments do not fit the method,
    /// - [`CallError::Service`] with a [`MethodError`] if the method returns its own error, or
    ///   [`CallError::ServiceText`] if it does so in plain text,
    /// - [`CallError::BadReply`] if the result or error has a number outside the range of a
    ///   `Value`, such as a large `u128`. [`call_json`](Self::call_json) returns it exactly,
    /// - the errors of any other call.
    pub fn call(&self, method: &str, arguments: impl Serialize) -> Call<Value, MethodError> {
        let exact_arguments = || exact_value_of(&arguments);
        Call::new(
            self.client.path.clone(),
            self.prepare_call(method, MethodKind::Unary, Sends::NoItems, exact_arguments),
            read_as::<Value>,
        )
    }

    /// Calls a method like [`call`](Self::call), with arguments, result and the method's own error
    /// as JSON text.
    ///
    /// Numbers keep all their digits if the codec is JSON, which is the default. With MessagePack,
    /// floats are rounded to `f64`, and an integer of more than 128 bits cannot be encoded.
    ///
    /// # Errors
    ///
    /// The call fails with [`CallError::Encode`] if the arguments are not valid JSON, and with the
    /// errors of [`call`](Self::call). The range of numbers in the reply is not limited to that of
    /// a `Value`.
    pub fn call_json(&self, method: &str, arguments: &str) -> Call<String, MethodError<String>> {
        let exact_arguments = || Ok(ExactValue::from_json(arguments.as_bytes())?);
        Call::new(
            self.client.path.clone(),
            self.prepare_call(method, MethodKind::Unary, Sends::NoItems, exact_arguments),
            read_as::<String>,
        )
    }

    /// Calls a method that receives a stream, with arguments like those of [`call`](Self::call),
    /// and sends it these items.
    ///
    /// ```
    /// # use rpc_runtime::{Broker, CallError, DynamicClient, Incoming, MethodError};
    /// # use rpc_runtime::{Server, service};
    /// # use rpc_runtime::discovery::WorkerClient;
    /// # use futures_util::stream;
    /// # use serde_json::json;
    /// # #[service(queue = "sums")]
    /// # pub trait Sums { async fn sum(&self, times: u64, numbers: Incoming<u64>) -> u64; }
    /// # struct Adder;
    /// # impl Sums for Adder {
    /// #     async fn sum(&self, times: u64, mut numbers: Incoming<u64>) -> u64 {
    /// #         let mut sum = 0;
    /// #         while let Some(Ok(number)) = numbers.next().await { sum += times * number }
    /// #         sum
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = Broker::in_process();
    /// # let server = Server::new(&broker).serve(SumsServer::new(Adder)).start().await?;
    /// # let worker = WorkerClient::new(&broker, "sums").describe().await?;
    /// # let sums = DynamicClient::new(&broker, worker.service("Sums").unwrap().clone())?;
    /// let numbers = stream::iter([json!(1), json!(2), json!(3)]);
    /// let sum = sums.call_with_items("sum", json!({"times": 10}), numbers).await?;
    /// assert_eq!(sum, 60);
    /// # server.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The call fails with [`CallError::WrongKind`] if the method does not receive a stream, with
    /// [`CallError::BadItem`] if an item cannot be encoded, and with the other errors of
    /// [`call`](Self::call).
    pub fn call_with_items<T: Serialize + 'static>(
        &self,
        method: &str,
        arguments: impl Serialize,
        items: impl Stream<Item = T> + Send + 'static,
    ) -> Call<Value, MethodError> {
        let exact_arguments = || exact_value_of(&arguments);
        let call = Call::new(
            self.client.path.clone(),
            self.prepare_call(method, MethodKind::Unary, Sends::Items, exact_arguments),
            read_as::<Value>,
        );
        call.with_encoded_items(items, encode_item)
    }

    /// Calls a method like [`call_with_items`](Self::call_with_items), with arguments, items,
    /// result and the method's own error as JSON text, as in [`call_json`](Self::call_json). Fails
    /// with [`CallError::BadItem`] if an item is not valid JSON.
    pub fn call_json_with_items(
        &self,
        method: &str,
        arguments: &str,
        items: impl Stream<Item = String> + Send + 'static,
    ) -> Call<String, MethodError<String>> {
        let exact_arguments = || Ok(ExactValue::from_json(arguments.as_bytes())?);
        let call = Call::new(
            self.client.path.clone(),
            self.prepare_call(method, MethodKind::Unary, Sends::Items, exact_arguments),
            read_as::<String>,
        );
        call.with_encoded_items(items, encode_json_item)
    }

    /// Calls a broadcast of all workers, with arguments and results like those of
    /// [`call`](Self::call). A one-way broadcast has no answers: [`call`](Self::call) sends it.
    ///
    /// # Errors
    ///
    /// Sending fails with [`CallError::WrongKind`] if the method is not a broadcast with answers,
    /// with the errors that [`call`](Self::call) has before it sends a request, and with those of
    /// [`Broadcast::send`]. The errors of a reply are those of single answers.
    pub fn broadcast(&self, method: &str, arguments: impl Serialize) -> Broadcast<Value, MethodError> {
        let exact_arguments = || exact_value_of(&arguments);
        Broadcast::new(
            self.client.path.clone(),
            self.prepare_call(method, MethodKind::Broadcasting, Sends::NoItems, exact_arguments),
            read_as::<Value>,
        )
    }

    /// Calls a broadcast like [`broadcast`](Self::broadcast), with arguments, results and the
    /// method's own errors as JSON text, as in [`call_json`](Self::call_json).
    pub fn broadcast_json(&self, method: &str, arguments: &str) -> Broadcast<String, MethodError<String>> {
        let exact_arguments = || Ok(ExactValue::from_json(arguments.as_bytes())?);
        Broadcast::new(
            self.client.path.clone(),
            self.prepare_call(method, MethodKind::Broadcasting, Sends::NoItems, exact_arguments),
            read_as::<String>,
        )
    }

    /// Calls a method that replies with a stream, with arguments like those of
    /// [`call`](Self::call). Each item is a JSON value.
    ///
    /// ```
    /// # use rpc_runtime::{Broker, CallError, DynamicClient, MethodError, Server, service};
    /// # use rpc_runtime::discovery::WorkerClient;
    /// # use futures_util::stream::{self, Stream};
    /// # use serde_json::json;
    /// # #[service(queue = "numbers")]
    /// # pub trait Numbers { fn count(&self, to: u64) -> impl Stream<Item = u64>; }
    /// # struct Counter;
    /// # impl Numbers for Counter {
    /// #     fn count(&self, to: u64) -> impl Stream<Item = u64> { stream::iter(1..=to) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = Broker::in_process();
    /// # let server = Server::new(&broker).serve(NumbersServer::new(Counter)).start().await?;
    /// # let worker = WorkerClient::new(&broker, "numbers").describe().await?;
    /// # let numbers = DynamicClient::new(&broker, worker.service("Numbers").unwrap().clone())?;
    /// let mut count = numbers.stream("count", json!({"to": 3})).credit(16);
    /// while let Some(number) = count.next().await {
    ///     println!("{}", number?);
    /// }
    /// # server.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The last item is one of the errors of [`call`](Self::call) if the call or the method fails.
    /// The only item is [`CallError::WrongKind`] if the method does not reply with a stream, or if
    /// it receives one.
    pub fn stream(&self, method: &str, arguments: impl Serialize) -> StreamingCall<Value, MethodError> {
        let exact_arguments = || exact_value_of(&arguments);
        self.stream_as(method, Sends::NoItems, exact_arguments)
    }

    /// Calls a method like [`stream`](Self::stream), with arguments, items and the method's own
    /// error as JSON text, as in [`call_json`](Self::call_json).
    pub fn stream_json(&self, method: &str, arguments: &str) -> StreamingCall<String, MethodError<String>> {
        let exact_arguments = || Ok(ExactValue::from_json(arguments.as_bytes())?);
        self.stream_as(method, Sends::NoItems, exact_arguments)
    }

    /// Calls a method that receives a stream and replies with another one, and sends it these
    /// items. Otherwise this is like [`stream`](Self::stream).
    ///
    /// # Errors
    ///
    /// The errors of [`call_with_items`](Self::call_with_items) and [`stream`](Self::stream).
    pub fn stream_with_items<T: Serialize + 'static>(
        &self,
        method: &str,
        arguments: impl Serialize,
        items: impl Stream<Item = T> + Send + 'static,
    ) -> StreamingCall<Value, MethodError> {
        let exact_arguments = || exact_value_of(&arguments);
        let call = self.stream_as(method, Sends::Items, exact_arguments);
        call.with_encoded_items(items, encode_item)
    }

    /// Calls a method like [`stream_with_items`](Self::stream_with_items), with arguments, the
    /// items of both streams and the method's own error as JSON text, as in
    /// [`call_json`](Self::call_json). Fails with [`CallError::BadItem`] if an item that is sent is
    /// not valid JSON.
    pub fn stream_json_with_items(
        &self,
        method: &str,
        arguments: &str,
        items: impl Stream<Item = String> + Send + 'static,
    ) -> StreamingCall<String, MethodError<String>> {
        let exact_arguments = || Ok(ExactValue::from_json(arguments.as_bytes())?);
        let call = self.stream_as(method, Sends::Items, exact_arguments);
        call.with_encoded_items(items, encode_json_item)
    }

    /// Prepares a call of a method that replies with a stream, whose items are read as the type
    /// `T`.
    fn stream_as<T: FromExactValue>(
        &self,
        method: &str,
        sends: Sends,
        exact_arguments: impl FnOnce() -> Result<ExactValue, BoxError>,
    ) -> StreamingCall<T, MethodError<T>> {
        let call = self.prepare_call(method, MethodKind::Streaming, sends, exact_arguments);
        let (call, inbox) = with_inbox(call);
        let read = ReadItems {
            item: value_of::<T>,
            array: values_of::<T>,
            end: |reply| read_as::<T>(reply).map(drop),
        };
        StreamingCall::new(self.client.path.clone(), call, inbox, read)
    }

    /// Prepares a call and encodes its arguments. The call is invalid if the method must not be
    /// called in the way that `kind` and `sends` say.
    fn prepare_call(
        &self,
        method: &str,
        kind: MethodKind,
        sends: Sends,
        exact_arguments: impl FnOnce() -> Result<ExactValue, BoxError>,
    ) -> Result<Arc<InFlightCall>, InvalidCall> {
        let described = self.description.method(method);
        let Some((described, called)) = described.zip(self.service.method(method)) else {
            let method = method.to_owned();
            return Err(InvalidCall::NotDescribed { method });
        };
        let right_kind = kind_of(described);
        // A method that replies with a stream can be called as a unary one too: that grants no
        // credit, so the worker sends all items in its reply.
        let is_right_kind =
            kind == right_kind || (kind, right_kind) == (MethodKind::Unary, MethodKind::Streaming);
        let receives_items = described.incoming.is_some();
        let sends_items = sends == Sends::Items;
        if !is_right_kind || sends_items != receives_items {
            return Err(InvalidCall::WrongKind {
                method: method.to_owned(),
                kind: if receives_items {
                    MethodKind::Receiving
                } else {
                    right_kind
                },
            });
        }
        self.client
            .prepare_call(CalledMethod::Described(Arc::clone(called)), |codec| {
                let encoded =
                    exact_arguments().and_then(|arguments| encode_arguments(described, arguments, codec));
                encoded.map_err(|source| EncodeError::new(codec, source))
            })
    }
}

impl fmt::Debug for DynamicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamicClient")
            .field("service", &self.description.name)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What a program sends while the method runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    NoItems,
    /// A stream of items.
    Items,
}

/// Returns how to call a method, apart from the stream that it may receive. A one-way broadcast
/// counts as unary: it is called like a method without a result.
fn kind_of(method: &MethodDescription) -> MethodKind {
    if method.is_streaming {
        MethodKind::Streaming
    } else if method.is_broadcast && !method.is_oneway {
        MethodKind::Broadcasting
    } else {
        MethodKind::Unary
    }
}

/// Why arguments do not fit a method.
#[derive(Debug, thiserror::Error)]
enum ArgumentsError {
    #[error("arguments are a map by name, or an array by position")]
    NotArguments,
    #[error("the method has no argument {name:?}: it has {}", Names(.known))]
    Unknown { name: String, known: Vec<String> },
    #[error("the argument {0:?} is given twice")]
    Twice(String),
    #[error("{given} arguments are too many: the method has {}", Names(.known))]
    TooMany { given: usize, known: Vec<String> },
    #[error("text/plain carries one argument, which is missing")]
    Missing,
    #[error("text/plain cannot carry null: use application/msgpack or application/json")]
    Null,
    #[error(
        "text/plain carries one argument, and the method takes {0}: use application/msgpack or application/json"
    )]
    TooManyForText(usize),
}

/// Displays the names of arguments, separated by commas, or `none`.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("none"),
            names => f.write_str(&names.join(", ")),
        }
    }
}

/// Converts a value to an exact one, through JSON, which keeps all digits.
fn exact_value_of(value: &impl Serialize) -> Result<ExactValue, BoxError> {
    Ok(ExactValue::from_json(&Codec::Json.encode(value)?)?)
}

/// Encodes a method's arguments.
fn encode_arguments(
    method: &MethodDescription,
    arguments: ExactValue,
    codec: Codec,
) -> Result<Bytes, BoxError> {
    let named = named_arguments(method, arguments)?;
    if codec != Codec::Text {
        return encode_value(ExactValue::Object(named), codec);
    }
    // Plain text carries the one argument without its name.
    match (method.arguments.len(), named.into_iter().next()) {
        (0, _) => Ok(Bytes::new()),
        (1, None) => Err(ArgumentsError::Missing.into()),
        (1, Some((_, argument))) => encode_value(argument, codec),
        (count, _) => Err(ArgumentsError::TooManyForText(count).into()),
    }
}

/// Encodes all arguments as an object, one argument without its name, or an item.
fn encode_value(value: ExactValue, codec: Codec) -> Result<Bytes, BoxError> {
    match (codec, value) {
        (Codec::Json, value) => Ok(value.to_json()),
        (Codec::Text, ExactValue::Null) => Err(ArgumentsError::Null.into()),
        (Codec::Text, ExactValue::Number(number)) => Ok(Bytes::from(number)),
        (codec, value) => Ok(codec.encode(&value)?),
    }
}

/// Encodes an item that the caller sends.
fn encode_item<T: Serialize>(codec: Codec, item: T) -> Result<Bytes, EncodeError> {
    let value = Codec::Json.encode(&item)?;
    encode_json(codec, &value)
}

/// Encodes an item from its JSON text.
fn encode_json_item(codec: Codec, item: String) -> Result<Bytes, EncodeError> {
    encode_json(codec, item.as_bytes())
}

/// Encodes a value from its JSON text.
fn encode_json(codec: Codec, json: &[u8]) -> Result<Bytes, EncodeError> {
    let value = ExactValue::from_json(json).map_err(BoxError::from);
    let encoded = value.and_then(|value| encode_value(value, codec));
    encoded.map_err(|source| EncodeError::new(codec, source))
}

/// Returns the arguments with their names, or with the aliases by which a map has them. Fails if
/// the method lacks one, or if one is given twice. Arguments may be missing: the worker may know a
/// default.
fn named_arguments(
    method: &MethodDescription,
    arguments: ExactValue,
) -> Result<Vec<(String, ExactValue)>, ArgumentsError> {
    let names = || method.arguments.iter().map(|argument| argument.name.clone());
    match arguments {
        ExactValue::Null => Ok(Vec::new()),
        ExactValue::Array(values) if values.len() > method.arguments.len() => Err(ArgumentsError::TooMany {
            given: values.len(),
            known: names().collect(),
        }),
        ExactValue::Array(values) => Ok(names().zip(values).collect()),
        ExactValue::Object(values) => {
            let mut given = HashSet::new();
            for (name, _) in &values {
                let has_name = |argument: &&ArgumentDescription| {
                    argument.name == *name || argument.aliases.contains(name)
                };
                let Some(argument) = method.arguments.iter().find(has_name) else {
                    return Err(ArgumentsError::Unknown {
                        name: name.clone(),
                        known: names().collect(),
                    });
                };
                if !given.insert(&argument.name) {
                    return Err(ArgumentsError::Twice(argument.name.clone()));
                }
            }
            Ok(values)
        }
        ExactValue::Bool(_) | ExactValue::Number(_) | ExactValue::String(_) => {
            Err(ArgumentsError::NotArguments)
        }
    }
}

/// A type of results, errors and items: a JSON value, or its text.
trait FromExactValue: Sized {
    fn from_exact_value(value: ExactValue) -> Result<Self, BoxError>;
}

impl FromExactValue for Value {
    fn from_exact_value(value: ExactValue) -> Result<Self, BoxError> {
        Ok(value.into_value()?)
    }
}

impl FromExactValue for String {
    fn from_exact_value(value: ExactValue) -> Result<Self, BoxError> {
        Ok(value.to_string())
    }
}

/// Reads a reply as a result, as the method's own error, or as a fault.
fn read_as<T: FromExactValue>(reply: Reply) -> Result<T, CallError<MethodError<T>>> {
    match reply.kind {
        ReplyKind::Result => decode_value(&reply),
        ReplyKind::Error if reply.codec == Codec::Text => {
            let text = String::from_utf8_lossy(&reply.body);
            Err(CallError::ServiceText(text.into_owned()))
        }
        ReplyKind::Error => match decode_value(&reply) {
            Ok(error) => Err(CallError::Service(MethodError::new(error))),
            Err(error) => Err(error),
        },
        ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
    }
}

/// Decodes the result, or the method's own error, in a reply.
fn decode_value<T: FromExactValue, E>(reply: &Reply) -> Result<T, CallError<E>> {
    value_of(reply.codec, &reply.body).map_err(|error| undecodable_reply_error(reply, error))
}

/// Decodes a result, an error, or an item.
fn value_of<T: FromExactValue>(codec: Codec, body: &[u8]) -> Result<T, DecodeError> {
    let unreadable = |source| DecodeError::new(codec, source);
    let value = match codec {
        // Plain text does not distinguish numbers from strings.
        Codec::Text => match std::str::from_utf8(body) {
            Ok(text) => ExactValue::String(text.to_owned()),
            Err(error) => return Err(unreadable(error.into())),
        },
        codec => ExactValue::from_reply(codec, body)?,
    };
    T::from_exact_value(value).map_err(unreadable)
}

/// Decodes all items of a stream from one reply. In plain text, each is a line.
fn values_of<T: FromExactValue>(codec: Codec, body: &[u8]) -> Result<Vec<T>, DecodeError> {
    if codec == Codec::Text {
        // An empty body has no items, but splitting it would yield one empty line.
        if body.is_empty() {
            return Ok(Vec::new());
        }
        let lines = body.split(|byte| *byte == b'\n');
        return lines.map(|line| value_of(codec, line)).collect();
    }
    let items = match ExactValue::from_reply(codec, body)? {
        ExactValue::Array(items) => items.into_iter().map(T::from_exact_value).collect(),
        _ => Err("it is no array of items".into()),
    };
    items.map_err(|source: BoxError| DecodeError::new(codec, source))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::describe::ArgumentDescription;
    use crate::error::Chain;
    use crate::protocol::Executed;
    use crate::protocol::ShortStr;

    fn method(arguments: &[&str]) -> MethodDescription {
        let mut method = MethodDescription::new("get");
        let of = |name: &&str| ArgumentDescription::new(*name, "");
        method.arguments = arguments.iter().map(of).collect();
        method
    }

    fn exact(value: Value) -> ExactValue {
        ExactValue::from_json(value.to_string().as_bytes()).unwrap()
    }

    fn json_of(method: &MethodDescription, arguments: Value) -> Result<Value, String> {
        match encode_arguments(method, exact(arguments), Codec::Json) {
            Ok(body) => Ok(serde_json::from_slice(&body).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn text_of(method: &MethodDescription, arguments: Value) -> Result<String, String> {
        match encode_arguments(method, exact(arguments), Codec::Text) {
            Ok(body) => Ok(String::from_utf8(body.to_vec()).unwrap()),
            Err(error) => Err(Chain(&*error).to_string()),
        }
    }

    #[test]
    fn arguments_are_named_and_known() {
        let mut get = method(&["id", "limit"]);
        get.arguments[0].aliases.push("key".into());
        assert_eq!(json_of(&get, json!({"id": 7})), Ok(json!({"id": 7})));
        assert_eq!(json_of(&get, json!({"key": 7})), Ok(json!({"key": 7})));
        assert_eq!(json_of(&get, json!([7])), Ok(json!({"id": 7})));
        assert_eq!(json_of(&get, json!([7, 8])), Ok(json!({"id": 7, "limit": 8})));
        assert_eq!(json_of(&get, json!(null)), Ok(json!({})));
        let refused = |arguments| json_of(&get, arguments).unwrap_err();
        assert_eq!(
            refused(json!({"name": 7})),
            "the method has no argument \"name\": it has id, limit"
        );
        assert_eq!(
            refused(json!({"id": 7, "key": 8})),
            "the argument \"id\" is given twice"
        );
        assert_eq!(
            refused(json!([1, 2, 3])),
            "3 arguments are too many: the method has id, limit"
        );
        assert_eq!(
            refused(json!("7")),
            "arguments are a map by name, or an array by position"
        );
        assert_eq!(
            json_of(&method(&[]), json!({"id": 1})).unwrap_err(),
            "the method has no argument \"id\": it has none"
        );
    }

    #[test]
    fn an_unreadable_reply_of_an_unknown_type_may_be_a_refusal() {
        let reply = |codec, body: &'static [u8], unknown_type: Option<&str>| Reply {
            unknown_type: unknown_type.map(|kind| Box::new(ShortStr::new(kind).unwrap())),
            ..Reply::new(ReplyKind::Result, codec, Bytes::from_static(body))
        };
        for (codec, body) in [(Codec::Text, &b"\xff"[..]), (Codec::Json, b"{")] {
            for (unknown_type, executed) in [(None, Executed::Yes), (Some("busy"), Executed::Maybe)] {
                let error = decode_value::<Value, ()>(&reply(codec, body, unknown_type)).unwrap_err();
                assert_eq!(error.executed(), executed, "{codec} {unknown_type:?}");
            }
        }
    }

    #[test]
    fn plain_text_is_the_one_argument() {
        let get = method(&["id"]);
        assert_eq!(text_of(&get, json!({"id": "user:1"})), Ok("user:1".into()));
        assert_eq!(text_of(&get, json!([7])), Ok("7".into()));
        assert_eq!(text_of(&get, json!({"id": true})), Ok("true".into()));
        assert_eq!(text_of(&method(&[]), json!(null)), Ok(String::new()));
        for (method, arguments) in [
            (&get, json!({})),
            (&get, json!({"id": null})),
            (&get, json!({"id": [1]})),
            (&method(&["id", "limit"]), json!({"id": 7})),
        ] {
            let refused = text_of(method, arguments).unwrap_err();
            assert!(refused.contains("text/plain"), "{refused}");
        }
    }
}
