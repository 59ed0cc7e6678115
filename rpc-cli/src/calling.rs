//! Calls the methods of a service that is known by its description.

use std::time::Duration;

use futures_util::Stream;
use rpc_contract::MethodDescription;
use rpc_runtime::discovery::Worker;
use rpc_runtime::{Broadcast, Call, CallError, DynamicClient, MethodError, StreamingCall};
use serde_json::json;

use crate::failure::Failure;

/// The error of a call whose arguments and results are JSON text.
pub(crate) type Error = CallError<MethodError<String>>;

/// The options of a call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// `None` if the method's own limit applies, or else the client's.
    pub(crate) timeout: Option<Duration>,
    /// Not used for a broadcast with answers.
    pub(crate) priority: Option<u8>,
    pub(crate) headers: Vec<(String, String)>,
}

/// A call of a method, by the kind of its answers. Nothing is sent before a call is awaited, a
/// stream is read, or a broadcast's `send` is awaited.
#[derive(Debug)]
pub(crate) enum PreparedCall {
    /// Ends with a reply. If the method is one-way, it ends once the broker has the request.
    Single(Call<String, MethodError<String>>),
    Streaming(StreamingCall<String, MethodError<String>>),
    Broadcast(Broadcast<String, MethodError<String>>),
}

/// Prepares a call of a method that the client knows. `items` are those that the call sends: `None`
/// if the method receives none.
pub(crate) fn prepare(
    client: &DynamicClient,
    method: &MethodDescription,
    arguments: &str,
    items: Option<impl Stream<Item = String> + Send + 'static>,
    settings: &Settings,
) -> PreparedCall {
    let name = method.name.as_str();
    // The three kinds of calls share no trait, and a broadcast calls its timeout `limit`.
    macro_rules! with_settings {
        ($call:expr, $timeout:ident) => {{
            let mut call = $call;
            if let Some(timeout) = settings.timeout {
                call = call.$timeout(timeout);
            }
            for (name, value) in &settings.headers {
                call = call.header(name, value);
            }
            call
        }};
    }
    // A one-way broadcast has no answers to gather, so it is sent like a call.
    if method.is_broadcast && !method.is_oneway {
        let broadcast = client.broadcast_json(name, arguments);
        return PreparedCall::Broadcast(with_settings!(broadcast, limit));
    }
    if method.is_streaming {
        let stream = match items {
            Some(items) => client.stream_json_with_items(name, arguments, items),
            None => client.stream_json(name, arguments),
        };
        let mut stream = with_settings!(stream, timeout);
        if let Some(priority) = settings.priority {
            stream = stream.priority(priority);
        }
        return PreparedCall::Streaming(stream);
    }
    let call = match items {
        Some(items) => client.call_json_with_items(name, arguments, items),
        None => client.call_json(name, arguments),
    };
    let mut call = with_settings!(call, timeout);
    if let Some(priority) = settings.priority {
        call = call.priority(priority);
    }
    PreparedCall::Single(call)
}

/// Returns the answer of a worker to a broadcast as JSON. The JSON text of the result, or of the
/// method's error, is inserted as it is, because parsing would round large numbers.
pub(crate) fn answer_json(worker: &Worker, answer: Result<String, Error>) -> String {
    let worker = json!(worker);
    match answer {
        Ok(result) => format!(r#"{{"worker":{worker},"result":{result}}}"#),
        Err(error) => {
            // A failure is a JSON object. The worker becomes its first member.
            let failure = Failure::Call(Box::new(error)).json();
            failure.replacen('{', &format!(r#"{{"worker":{worker},"#), 1)
        }
    }
}
