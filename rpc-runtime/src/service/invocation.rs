//! A service as a server sees it: type-erased, so that one server can serve several.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::context::Context;
use super::extensions::Extensions;
use super::incoming_inbox::IncomingInbox;
use super::item_sink::ItemSink;
use crate::codec::{Codec, EncodeError};
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::error::Chain;
use crate::protocol::{
    ArgumentsSeed, DecodeArguments, Fault, FaultCode, Reply, ReplyKind, decode_empty_body,
};
use crate::telemetry::{ItemFlow, ItemObservers, ItemTally, Method, SentBy, StreamItem};

/// A service that a [`Server`](crate::Server) can serve.
///
/// The [`service`](macro@crate::service) attribute implements it for each generated `XServer`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a server of a service",
    label = "this is not a generated `..Server`",
    note = "wrap an implementation of the trait `X` in the generated server: `.serve(XServer::new(..))`"
)]
pub trait Service: Send + Sync + 'static {
    /// Describes the service and its methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Runs the invoked method.
    ///
    /// # Errors
    ///
    /// Returns the fault to send instead of the method's result.
    fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>>;
}

/// A request for one method, as its service handles it.
#[derive(Clone)]
pub struct Invocation {
    context: Context,
    codec: Codec,
    arguments: Bytes,
    /// Why the method must not run again. `None` if it may run.
    rerun_refusal: Option<&'static str>,
    /// `None` if the method neither replies with a stream nor receives one.
    streams: Option<Arc<RequestStreams>>,
    /// The size of the largest reply that may be sent, in bytes.
    max_reply_bytes: usize,
}

/// The streams of a request. Few requests have any.
#[derive(Clone, Default)]
struct RequestStreams {
    /// Where the items of the method's stream go. `None` if the caller expects one reply.
    item_sink: Option<Arc<dyn ItemSink>>,
    /// The items that the caller sends. `None` if it sends none.
    incoming_inbox: Option<Arc<IncomingInbox>>,
    /// Counts the items. `None` if the method has no stream.
    flow: Option<Arc<ItemFlow>>,
    /// The layers that observe the items.
    observers: ItemObservers,
}

impl Invocation {
    pub(crate) fn new(context: Context, codec: Codec, arguments: Bytes) -> Self {
        Self {
            context,
            codec,
            arguments,
            rerun_refusal: None,
            streams: None,
            max_reply_bytes: usize::MAX,
        }
    }

    /// Sets why the method must not run again, although layers may answer the request.
    pub(super) fn with_rerun_refusal(self, rerun_refusal: Option<&'static str>) -> Self {
        Self {
            rerun_refusal,
            ..self
        }
    }

    /// Sets the size of the largest reply that may be sent, in bytes.
    pub(super) fn with_max_reply_bytes(self, max_reply_bytes: usize) -> Self {
        Self {
            max_reply_bytes,
            ..self
        }
    }

    /// Lets the items of the request be counted, under this method.
    pub(super) fn count_items(&mut self, method: Method) {
        self.streams_mut().flow = Some(ItemFlow::of_request(method));
    }

    /// Returns what counts the items of the request. `None` if the method has no stream.
    pub(super) fn item_flow(&self) -> Option<Arc<ItemFlow>> {
        self.streams.as_ref()?.flow.clone()
    }

    /// Adds a layer that observes the items, if the method has a stream.
    pub(super) fn observe_items(&mut self, observer: impl Fn(StreamItem) + Send + Sync + 'static) {
        if self.streams.is_some() {
            self.streams_mut().observers.push(observer);
        }
    }

    /// Returns a new tally of the items that `sent_by` sends.
    pub(super) fn item_tally(&self, sent_by: SentBy) -> ItemTally {
        let (flow, observers) = match self.streams.as_deref() {
            Some(streams) => (streams.flow.clone(), streams.observers.clone()),
            None => (None, ItemObservers::default()),
        };
        ItemTally::new(sent_by, flow, observers)
    }

    /// Sets where the items of the method's stream go.
    pub(crate) fn set_item_sink(&mut self, sink: Arc<dyn ItemSink>) {
        self.streams_mut().item_sink = Some(sink);
    }

    pub(super) fn item_sink(&self) -> Option<&dyn ItemSink> {
        self.streams.as_ref()?.item_sink.as_deref()
    }

    /// Sets where the items that the caller sends arrive.
    pub(crate) fn set_incoming_inbox(&mut self, inbox: Arc<IncomingInbox>) {
        self.streams_mut().incoming_inbox = Some(inbox);
    }

    pub(super) fn incoming_inbox(&self) -> Option<&Arc<IncomingInbox>> {
        self.streams.as_ref()?.incoming_inbox.as_ref()
    }

    fn streams_mut(&mut self) -> &mut RequestStreams {
        Arc::make_mut(self.streams.get_or_insert_default())
    }

    pub(super) fn max_reply_bytes(&self) -> usize {
        self.max_reply_bytes
    }

    pub(super) fn rerun_refusal(&self) -> Option<&'static str> {
        self.rerun_refusal
    }

    /// Whether the method may run. If not, only layers may answer the request.
    pub(super) fn may_run(&self) -> bool {
        self.rerun_refusal.is_none()
    }

    /// The method's name on the wire.
    #[must_use]
    pub fn method(&self) -> &str {
        self.context.method()
    }

    /// The properties of the request.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    pub(crate) fn extensions_mut(&mut self) -> &mut Extensions {
        self.context.extensions_mut()
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// The size of the encoded arguments, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.arguments.len()
    }

    /// Decodes the arguments. Strings and bytes borrow from the request if the codec supports that.
    ///
    /// # Errors
    ///
    /// Returns the fault `bad_request`, which says what is wrong with the arguments.
    pub fn arguments<'a, A: DecodeArguments<'a>>(&'a self, method: &MethodDescriptor) -> Result<A, Fault> {
        // A peer may send an empty body instead of an empty map: all arguments are missing. In
        // plain text, an empty body is an empty string.
        if self.arguments.is_empty() && self.codec != Codec::Text {
            return decode_empty_body(method.arguments).map_err(Fault::bad_request);
        }
        let seed = ArgumentsSeed::<A>::new(method.arguments);
        self.codec
            .decode_seed(seed, &self.arguments)
            .map_err(|error| Fault::bad_request(Chain(&error)))
    }

    /// Encodes the value that a method returns, without the `Result` around it if there is one.
    ///
    /// # Errors
    ///
    /// Returns the fault to send if the request's codec cannot encode the value.
    pub fn answer<T: Serialize + 'static>(&self, value: T) -> Result<Answer, Fault> {
        self.encoded_answer(ReplyKind::Result, self.codec.encode_result(&value))
    }

    /// Encodes the `Result` of a method. `text` renders the error for a caller that uses plain
    /// text.
    ///
    /// # Errors
    ///
    /// Returns the fault to send if the request's codec cannot encode the result.
    pub fn answer_result<T, E>(
        &self,
        result: Result<T, E>,
        text: impl FnOnce(&E) -> String,
    ) -> Result<Answer, Fault>
    where
        T: Serialize + 'static,
        E: Serialize,
    {
        match (result, self.codec) {
            (Ok(value), _) => self.answer(value),
            (Err(error), Codec::Text) => Ok(self.new_answer(ReplyKind::Error, text(&error).into())),
            (Err(error), codec) => self.encoded_answer(ReplyKind::Error, codec.encode(&error)),
        }
    }

    /// Encodes the outcome of a job, like [`answer_result`](Self::answer_result).
    ///
    /// # Errors
    ///
    /// Returns the fault `unanswerable` if the request's codec cannot encode the error.
    pub fn answer_job<E: Serialize>(
        &self,
        result: Result<(), E>,
        text: impl FnOnce(&E) -> String,
    ) -> Result<Answer, Fault> {
        self.answer_result(result, text)
    }

    /// Encodes a value. In plain text, `text` renders it for people.
    pub(crate) fn answer_readable<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<Answer, Fault> {
        match self.codec {
            Codec::Text => Ok(self.new_answer(ReplyKind::Result, text().into())),
            codec => self.encoded_answer(ReplyKind::Result, codec.encode(value)),
        }
    }

    fn encoded_answer(&self, kind: ReplyKind, body: Result<Bytes, EncodeError>) -> Result<Answer, Fault> {
        match body {
            Ok(body) => Ok(self.new_answer(kind, body)),
            Err(error) => Err(Fault::new(FaultCode::Unanswerable, Chain(&error).to_string())),
        }
    }

    pub(super) fn new_answer(&self, kind: ReplyKind, body: Bytes) -> Answer {
        Answer::new(Reply::new(kind, self.codec, body))
    }
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("context", &self.context)
            .field("codec", &self.codec)
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// The answer of a method, encoded with the request's codec; see [`Invocation::answer`].
#[derive(Clone)]
pub struct Answer {
    pub(crate) reply: Reply,
    /// Whether a layer answered and the method did not run. Set once all layers have ended.
    pub(crate) is_from_layer: bool,
}

impl Answer {
    pub(crate) fn new(reply: Reply) -> Self {
        Self {
            reply,
            is_from_layer: false,
        }
    }

    /// Whether the method returned its own error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.reply.kind == ReplyKind::Error
    }

    /// The size of the encoded answer, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.reply.body.len()
    }
}

/// Does not show the content, which may be secret.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("is_error", &self.is_error())
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// Renders a service error for a caller that uses plain text: with `Display` if the error
/// implements it, as JSON otherwise. So a service error needs to implement serde's traits only.
///
/// The traits below have a method of the same name, which no user's trait has. A call on a
/// `&&Readable` looks for it with `&Readable`, `&&Readable` and `Readable` as `Self`, in this
/// order, and takes the first that exists.
#[derive(Debug)]
pub struct Readable<'a, E>(pub &'a E);

/// Renders errors that implement `Display`.
pub trait ViaDisplay {
    /// Returns the error as its `Display` shows it.
    fn __readable_text(&self) -> String;
}

impl<E: fmt::Display> ViaDisplay for &Readable<'_, E> {
    fn __readable_text(&self) -> String {
        self.0.to_string()
    }
}

/// Renders errors that do not implement `Display`.
pub trait ViaSerialize {
    /// Returns the error as JSON, or as text why it cannot be encoded.
    fn __readable_text(&self) -> String;
}

impl<E: Serialize> ViaSerialize for &&Readable<'_, E> {
    fn __readable_text(&self) -> String {
        match Codec::Json.encode(self.0) {
            Ok(json) => String::from_utf8_lossy(&json).into_owned(),
            Err(error) => Chain(&error).to_string(),
        }
    }
}

/// Renders nothing. The compiler already reports that the error cannot be serialized, and must not
/// report this method too.
pub trait Unreadable {
    /// Returns an empty string.
    fn __readable_text(&self) -> String {
        String::new()
    }
}

impl<E> Unreadable for Readable<'_, E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Shown;

    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no user 7")
        }
    }

    #[derive(Serialize)]
    struct Plain {
        id: u32,
    }

    #[test]
    #[allow(clippy::needless_borrow)] // generated code always writes two references
    fn errors_are_readable_with_and_without_display() {
        assert_eq!((&&Readable(&Shown)).__readable_text(), "no user 7");
        assert_eq!((&&Readable(&Plain { id: 7 })).__readable_text(), r#"{"id":7}"#);
    }
}
