//! A service as an [AsyncAPI](https://www.asyncapi.com/docs/reference/specification/v3.0.0)
//! document.
//!
//! From it, other tools make documentation pages, catalogues, and clients in other languages.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::references::{DocumentKeys, convert_schema};
use crate::{ArgumentDescription, MethodDescription, RetryDescription, ServiceDescription};

/// The version of AsyncAPI's AMQP bindings.
const BINDING_VERSION: &str = "0.3.0";

const CONTENT_TYPE: &str = "application/json";

// AMQP's delivery modes.
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// The codes of faults that this version of rpc-runtime knows.
const FAULT_CODES: [&str; 12] = [
    "unknown_method",
    "bad_request",
    "unsupported_content_type",
    "panicked",
    "interrupted",
    "expired",
    "too_large",
    "reply_too_large",
    "unanswerable",
    "unauthorized",
    "rejected",
    "abandoned",
];

const ABOUT: &str = "A service over RabbitMQ. Requests and replies go through the default exchange: the routing key is the name of a \
    queue. This document describes their bodies in `application/json`. In `application/msgpack` they have the same structure; in `text/plain` \
    a request is its only argument as text, and a reply is its value as text. A reply is in the content type of its request.";

/// Makes the AsyncAPI 3.0 document of a service. `version` is the version of the service's
/// interface.
///
/// The document takes the worker's view: each method is an operation that receives a request, and
/// sends a reply unless it is one-way. Bodies are described by the description's JSON Schemas. A
/// body without a schema may be any value.
///
/// AMQP's properties `correlation_id` and `reply_to` are described as headers with these names,
/// because a document has no other place for them. The property `type` is the `messageType` of a
/// message's binding.
///
/// The same description and version always give the same document. References that lead out of the
/// description are removed, and names that cannot be keys are changed, so that the document is
/// valid for any description that a peer sends.
///
/// ```
/// use rpc_contract::{MethodDescription, ServiceDescription, asyncapi};
///
/// let mut service = ServiceDescription::new("Directory", "users");
/// service.methods.push(MethodDescription::new("get_email"));
///
/// let document = asyncapi::document(&service, "1.0.0");
/// assert_eq!(document["channels"]["requests"]["address"], "users");
/// assert_eq!(document["operations"]["get_email"]["action"], "receive");
/// ```
#[must_use]
pub fn document(service: &ServiceDescription, version: &str) -> Value {
    let schema_keys = DocumentKeys::new(service.definitions.keys().map(String::as_str));
    let method_keys = DocumentKeys::new(service.methods.iter().map(|method| method.name.as_str()));
    let mut document = Document {
        schema_keys: &schema_keys,
        messages: Map::new(),
        requests: Map::new(),
        broadcasts: Map::new(),
        items: Map::new(),
        replies: Map::new(),
        operations: Map::new(),
    };
    for (method, id) in service.methods.iter().zip(method_keys.in_order()) {
        document.add_method(method, id);
    }
    if !document.replies.is_empty() {
        document.add_fault();
    }
    document.finish(service, version)
}

/// The parts of the document that each method adds to.
struct Document<'a> {
    schema_keys: &'a DocumentKeys,
    messages: Map<String, Value>,
    // References to the messages of each channel.
    requests: Map<String, Value>,
    broadcasts: Map<String, Value>,
    items: Map<String, Value>,
    replies: Map<String, Value>,
    operations: Map<String, Value>,
}

impl Document<'_> {
    /// Adds a method under the key `id`.
    fn add_method(&mut self, method: &MethodDescription, id: &str) {
        let request = format!("{id}.request");
        self.messages.insert(request.clone(), self.request(method));
        let requests = if method.is_broadcast {
            &mut self.broadcasts
        } else {
            &mut self.requests
        };
        requests.insert(id.to_owned(), message_reference(&request));
        if let Some(type_name) = &method.incoming {
            let name = format!("{id}.incoming");
            let item = match &method.incoming_schema {
                Some(schema) => convert_schema(schema, self.schema_keys),
                None => schema_of_any(type_name),
            };
            let message = json!({
                "name": "rpc.items",
                "title": format!("Items for {}", method.name),
                "description": "Each message has several items, as the protocol of rpc-runtime says.",
                "payload": {"type": "array", "items": item},
                "bindings": message_binding("rpc.items"),
            });
            self.messages.insert(name.clone(), message);
            self.items.insert(name.clone(), message_reference(&name));
        }
        let replies = (!method.is_oneway).then(|| self.add_replies(method, id));
        let operation = method_operation(method, id, replies);
        self.operations.insert(id.to_owned(), operation);
    }

    /// Adds the messages that the method may reply with. Returns references to them and the fault.
    fn add_replies(&mut self, method: &MethodDescription, id: &str) -> Vec<Value> {
        let mut answers = vec![("result", &method.returns, &method.result_schema)];
        if let Some(error) = &method.error {
            answers.push(("error", error, &method.error_schema));
        }
        let mut replies = Vec::new();
        for (kind, type_name, schema) in answers {
            let name = format!("{id}.{kind}");
            let message = self.reply(method, kind, type_name, schema.as_ref());
            self.messages.insert(name.clone(), message);
            self.replies.insert(name.clone(), message_reference(&name));
            replies.push(reference(&["channels", "replies", "messages", &name]));
        }
        replies.push(reference(&["channels", "replies", "messages", "fault"]));
        replies
    }

    fn request(&self, method: &MethodDescription) -> Value {
        let arguments = method.arguments.iter();
        let properties: Map<_, _> = arguments
            .clone()
            .map(|argument| (argument.name.clone(), self.argument(argument)))
            .collect();
        let required: BTreeSet<_> = arguments
            .filter(|argument| !argument.is_optional)
            .map(|argument| &argument.name)
            .collect();
        let mut payload = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            payload["required"] = json!(required);
        }
        let trait_name = if method.is_oneway { "oneway" } else { "call" };
        let mut message = json!({
            "name": method.name,
            "title": method.signature(),
            "traits": [reference(&["components", "messageTraits", trait_name])],
            "payload": payload,
            "bindings": message_binding(&method.name),
        });
        add_description(&mut message, &method.docs);
        message
    }

    fn argument(&self, argument: &ArgumentDescription) -> Value {
        match &argument.schema {
            Some(schema) => convert_schema(schema, self.schema_keys),
            None => schema_of_any(&argument.type_name),
        }
    }

    fn reply(
        &self,
        method: &MethodDescription,
        kind: &str,
        type_name: &str,
        schema: Option<&Value>,
    ) -> Value {
        let payload = match schema {
            Some(schema) => convert_schema(schema, self.schema_keys),
            None => schema_of_any(type_name),
        };
        // The items of a stream, for a caller that grants no credit.
        let payload = match kind {
            "result" if method.is_streaming => json!({"type": "array", "items": payload}),
            _ => payload,
        };
        json!({
            "name": kind,
            "title": format!("The {kind} of {}", method.name),
            "traits": [reference(&["components", "messageTraits", "reply"])],
            "payload": payload,
            "bindings": message_binding(kind),
        })
    }

    /// Adds the message that the worker's runtime sends instead of the method's reply.
    fn add_fault(&mut self) {
        let fault = json!({
            "name": "fault",
            "title": "The error reply of the worker's runtime, sent instead of the method's reply",
            "traits": [reference(&["components", "messageTraits", "reply"])],
            "payload": {
                "type": "object",
                "properties": {
                    "code": {"type": "string", "description": "Other codes are possible.", "examples": FAULT_CODES},
                    "message": {"type": "string", "description": "For people."},
                },
                "required": ["code", "message"],
            },
            "bindings": message_binding("fault"),
        });
        self.messages.insert("fault".to_owned(), fault);
        self.replies
            .insert("fault".to_owned(), message_reference("fault"));
    }

    fn finish(self, service: &ServiceDescription, version: &str) -> Value {
        let about = match service.docs.trim() {
            "" => ABOUT.to_owned(),
            docs => format!("{docs}\n\n{ABOUT}"),
        };
        let definitions: BTreeMap<_, _> = service
            .definitions
            .iter()
            .zip(self.schema_keys.in_order())
            .map(|((_, schema), name)| (name, convert_schema(schema, self.schema_keys)))
            .collect();
        let mut channels = json!({
            "requests": {
                "title": "Requests",
                "address": service.queue,
                "messages": self.requests,
                "bindings": {"amqp": {"is": "queue", "queue": {"name": service.queue}, "bindingVersion": BINDING_VERSION}},
            },
        });
        if !self.broadcasts.is_empty() {
            channels["broadcasts"] = json!({
                "title": "Broadcasts",
                "description": "Requests that all workers of the queue get. A reply has the header `rpc-worker`: its worker, in JSON.",
                "address": service.queue,
                "messages": self.broadcasts,
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {"name": "rpc.control", "type": "direct", "durable": true, "autoDelete": false},
                        "bindingVersion": BINDING_VERSION,
                    },
                },
            });
        }
        if !self.items.is_empty() {
            channels["items"] = json!({
                "title": "Items",
                "description": "What callers send while a method runs. The routing key is the id of the worker that runs it, followed by `.items`.",
                "address": null,
                "messages": self.items,
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {"name": "rpc.control", "type": "direct", "durable": true, "autoDelete": false},
                        "bindingVersion": BINDING_VERSION,
                    },
                },
            });
        }
        if !self.replies.is_empty() {
            channels["replies"] = json!({
                "title": "Replies",
                "description": "Each caller has its own reply queue, which its requests name in `reply_to`.",
                "address": null,
                "messages": self.replies,
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {"name": "", "type": "default"},
                        "bindingVersion": BINDING_VERSION,
                    },
                },
            });
        }
        json!({
            "asyncapi": "3.0.0",
            "info": {"title": service.name, "version": version, "description": about},
            "defaultContentType": CONTENT_TYPE,
            "channels": channels,
            "operations": self.operations,
            "components": {
                "schemas": definitions,
                "messages": self.messages,
                "messageTraits": message_traits(),
                "correlationIds": {
                    "correlation_id": {
                        "description": "The property `correlation_id`: a reply has the one of its request.",
                        "location": "$message.header#/correlation_id",
                    },
                },
            },
        })
    }
}

/// Returns the operation of a method. `replies` are references to its replies, or `None` if it is
/// one-way.
fn method_operation(method: &MethodDescription, id: &str, replies: Option<Vec<Value>>) -> Value {
    let mut binding = json!({"ack": true, "mandatory": true, "bindingVersion": BINDING_VERSION});
    let channel = if method.is_broadcast {
        "broadcasts"
    } else {
        "requests"
    };
    let mut operation = json!({
        "action": "receive",
        "title": method.name,
        "channel": reference(&["channels", channel]),
        "messages": [reference(&["channels", channel, "messages", id])],
    });
    match replies {
        Some(replies) => {
            binding["deliveryMode"] = json!(TRANSIENT);
            if let Some(timeout) = method.timeout_ms {
                binding["expiration"] = json!(timeout);
            }
            operation["reply"] = json!({
                "address": {
                    "description": "The property `reply_to`.",
                    "location": "$message.header#/reply_to",
                },
                "channel": reference(&["channels", "replies"]),
                "messages": replies,
            });
        }
        None if method.is_broadcast => binding["deliveryMode"] = json!(TRANSIENT),
        None => binding["deliveryMode"] = json!(PERSISTENT),
    }
    operation["bindings"] = json!({"amqp": binding});
    let tags = method_tags(method);
    if !tags.is_empty() {
        operation["tags"] = json!(tags);
    }
    if let Some(summary) = method.docs.lines().next().filter(|line| !line.is_empty()) {
        operation["summary"] = json!(summary);
    }
    add_description(&mut operation, &method.docs);
    operation
}

fn method_tags(method: &MethodDescription) -> Vec<Value> {
    let tags = [
        (method.is_default, "default", "Serves requests without a `type`."),
        (
            method.is_idempotent,
            "idempotent",
            "May run more than once: a request may be sent again or redelivered.",
        ),
        (method.is_oneway, "oneway", "Has no reply."),
        (
            method.is_broadcast,
            "broadcast",
            "All workers of the queue run it, instead of one of them.",
        ),
        (
            method.is_cancellable,
            "cancel",
            "Workers stop it once its caller no longer waits.",
        ),
        (
            method.is_streaming,
            "stream",
            "Replies with a stream of items to a caller that grants credit, and with an array to any other.",
        ),
        (
            method.incoming.is_some(),
            "incoming",
            "Receives a stream of items, which its caller sends while it runs. Others cannot call it.",
        ),
        (
            method.resumed_by.is_some(),
            "resume",
            "After an interruption, a caller may call it again for the items after the last one.",
        ),
    ];
    let tags = tags.into_iter().filter(|(is_set, _, _)| *is_set);
    let mut tags: Vec<_> = tags
        .map(|(_, name, description)| json!({"name": name, "description": description}))
        .collect();
    tags.extend(method.retry.map(|retry| {
        let RetryDescription {
            times,
            min_delay_ms: min,
            max_delay_ms: max,
        } = retry;
        let description =
            format!("A failed job is retried {times} times, after {min} ms at first and {max} ms at last.");
        json!({"name": "retry", "description": description})
    }));
    tags
}

/// What all calls, all one-way requests and all replies share. AMQP's properties are among the
/// headers: AsyncAPI has no other place for them.
fn message_traits() -> Value {
    let correlation_id = |what: &str| {
        json!({
            "type": "string",
            "maxLength": 255,
            "description": format!("The property `correlation_id`: {what}."),
        })
    };
    let custom = json!({"type": ["string", "number", "boolean"], "description": "The caller's own headers: 4 KiB in all."});
    json!({
        "call": {
            "contentType": CONTENT_TYPE,
            "correlationId": reference(&["components", "correlationIds", "correlation_id"]),
            "headers": {
                "type": "object",
                "properties": {
                    "correlation_id": correlation_id("any text, such as a random UUID"),
                    "reply_to": {
                        "type": "string",
                        "maxLength": 255,
                        "description": "The property `reply_to`: the caller's reply queue, such as `amq.rabbitmq.reply-to`.",
                    },
                },
                "required": ["reply_to"],
                "additionalProperties": custom,
            },
        },
        "oneway": {
            "contentType": CONTENT_TYPE,
            "headers": {"type": "object", "additionalProperties": custom},
        },
        "reply": {
            "contentType": CONTENT_TYPE,
            "correlationId": reference(&["components", "correlationIds", "correlation_id"]),
            "headers": {"type": "object", "properties": {"correlation_id": correlation_id("that of the request")}},
        },
    })
}

/// Returns the binding that sets a message's property `type`.
fn message_binding(message_type: &str) -> Value {
    json!({"amqp": {"messageType": message_type, "bindingVersion": BINDING_VERSION}})
}

fn message_reference(name: &str) -> Value {
    reference(&["components", "messages", name])
}

/// Returns a reference within the document. No key on the path has a character that needs escaping.
fn reference(path: &[&str]) -> Value {
    json!({"$ref": format!("#/{}", path.join("/"))})
}

/// Returns a schema that allows any value, for a type whose schema is not known.
fn schema_of_any(type_name: &str) -> Value {
    match type_name {
        "" => json!({}),
        type_name => json!({"description": format!("`{type_name}`, in Rust.")}),
    }
}

/// Adds documentation to an object of the document, unless it is empty.
fn add_description(object: &mut Value, docs: &str) {
    if !docs.is_empty() {
        object["description"] = json!(docs);
    }
}
