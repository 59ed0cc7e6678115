//! The channels of a document.

use serde_json::{Map, Value, json};

use super::messages::MethodMessages;
use super::options::{Options, View};
use super::parts::{BINDING_VERSION, reference};
use crate::MethodDescription;

/// A channel of a document: where messages of a kind are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Requests,
    Broadcasts,
    /// Of items that callers send. Those that a method returns are replies.
    Items,
    Replies,
}

impl Channel {
    /// Returns the channel of a method's requests.
    pub(super) fn of_requests(method: &MethodDescription) -> Self {
        if method.is_broadcast {
            Self::Broadcasts
        } else {
            Self::Requests
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Broadcasts => "broadcasts",
            Self::Items => "items",
            Self::Replies => "replies",
        }
    }

    pub(super) fn reference(self) -> Value {
        reference(&["channels", self.key()])
    }

    /// Returns a reference to a message of the channel.
    pub(super) fn message(self, name: &str) -> Value {
        reference(&["channels", self.key(), "messages", name])
    }
}

/// Returns the channels of a service with this queue, with the messages of its methods. Channels
/// without messages are left out, except that of requests. `fault` is the name of the message that
/// replaces a method's reply.
pub(super) fn all(
    queue: &str,
    methods: &[(&MethodDescription, MethodMessages)],
    fault: &str,
    options: &Options,
) -> Map<String, Value> {
    let requests_in = |channel| {
        let methods = methods
            .iter()
            .filter(move |(method, _)| Channel::of_requests(method) == channel);
        references(methods.map(|(_, messages)| &messages.request))
    };
    let broadcasts = requests_in(Channel::Broadcasts);
    let items = references(methods.iter().filter_map(|(_, messages)| messages.items.as_ref()));
    let mut replies = references(methods.iter().flat_map(|(_, messages)| &messages.replies));
    let mut channels = Map::new();
    let mut add = |channel: Channel, object| channels.insert(channel.key().to_owned(), object);
    add(
        Channel::Requests,
        json!({
            "title": "Requests",
            "description": "The queue of requests. These are the properties that workers declare unless they \
                set others. They also set the argument `x-queue-type` to `classic`.",
            "address": queue,
            "messages": requests_in(Channel::Requests),
            "bindings": binding(&queue_of_requests(queue, options)),
        }),
    );
    if !broadcasts.is_empty() {
        add(
            Channel::Broadcasts,
            json!({
                "title": "Broadcasts",
                "description": "Requests that all workers of the queue get. A reply has the header `rpc-worker`: \
                    its worker, in JSON.",
                "address": queue,
                "messages": broadcasts,
                "bindings": binding(&control_exchange(options)),
            }),
        );
    }
    if !items.is_empty() {
        add(
            Channel::Items,
            json!({
                "title": "Items",
                "description": "What callers send while a method runs. The routing key is the id of the worker \
                    that runs it, followed by `.items`.",
                "address": null,
                "messages": items,
                "bindings": binding(&control_exchange(options)),
            }),
        );
    }
    if !replies.is_empty() {
        replies.extend(references([fault]));
        add(
            Channel::Replies,
            json!({
                "title": "Replies",
                "description": "Each caller has its own reply queue, which its requests name in `reply_to`.",
                "address": null,
                "messages": replies,
                "bindings": binding(&queue_of_replies(options)),
            }),
        );
    }
    channels
}

/// Returns references to messages, each under its name.
fn references<'a>(
    names: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>,
) -> Map<String, Value> {
    let names = names.into_iter().map(AsRef::as_ref);
    names
        .map(|name: &str| (name.to_owned(), reference(&["components", "messages", name])))
        .collect()
}

/// Returns the `bindings` of a channel. `properties` describe the queue or the exchange to which
/// its messages are sent.
fn binding(properties: &Value) -> Value {
    let mut binding = properties.clone();
    binding["bindingVersion"] = json!(BINDING_VERSION);
    json!({"amqp": binding})
}

fn queue_of_requests(name: &str, options: &Options) -> Value {
    let queue = json!({"name": name, "durable": true, "exclusive": false, "autoDelete": false});
    json!({"is": "queue", "queue": with_vhost(queue, options)})
}

/// Returns the reply queue. For a caller, it is the simplest one that works: an exclusive queue
/// that the broker names. A worker knows at most its virtual host.
fn queue_of_replies(options: &Options) -> Value {
    match options.view {
        View::Caller => {
            let queue = json!({"name": "", "durable": false, "exclusive": true, "autoDelete": true});
            json!({"is": "queue", "queue": with_vhost(queue, options)})
        }
        View::Worker => json!({"is": "queue", "queue": with_vhost(json!({}), options)}),
    }
}

fn control_exchange(options: &Options) -> Value {
    let exchange = json!({"name": "rpc.control", "type": "direct", "durable": true, "autoDelete": false});
    json!({"is": "routingKey", "exchange": with_vhost(exchange, options)})
}

fn with_vhost(mut object: Value, options: &Options) -> Value {
    if let Some(server) = &options.server {
        object["vhost"] = json!(server.vhost());
    }
    object
}
