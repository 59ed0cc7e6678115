//! A service as an [AsyncAPI](https://www.asyncapi.com/docs/reference/specification/v3.0.0) document, for the tools that read these: pages
//! of documentation, clients in other languages, catalogues.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::references::{self, Names};
use super::{ArgumentDescription, MethodDescription, ServiceDescription};
use crate::codec::Codec;
use crate::protocol::FaultCode;

/// The version of AMQP's bindings.
const BINDING: &str = "0.3.0";

const ABOUT: &str = "A service over RabbitMQ. Requests and replies go through the default exchange: the routing key is the name of a \
    queue. This document describes their bodies in `application/json`. In `application/msgpack` they have the same structure; in `text/plain` \
    they are the one argument, or the value, as text. A reply is in the content type of its request.";

/// The AsyncAPI 3.0 document of a service, of which `version` is the version of its interface.
///
/// It is written from where the worker stands: each method is an operation that receives a request, and replies unless it is one-way.
/// Bodies are described by the JSON Schemas of the description; what has none may be anything.
///
/// AMQP's properties `correlation_id` and `reply_to` are described as headers of that name, for there is no other place in a document
/// to refer to them. The property `type` is the `messageType` of a message's binding.
///
/// The same description always gives the same document. A description that came from a peer may say anything: references out of it are
/// left out, and names that cannot be keys are changed.
///
/// ```
/// use rpc_runtime::describe::asyncapi;
/// use rpc_runtime::{ServiceClient, service};
///
/// #[service(queue = "users")]
/// trait Directory {
///     async fn get_email(&self, id: &str) -> String;
/// }
///
/// let document = asyncapi::document(&DirectoryClient::SERVICE.description(), "1.0.0");
/// assert_eq!(document["channels"]["requests"]["address"], "users");
/// assert_eq!(document["operations"]["get_email"]["action"], "receive");
/// ```
#[must_use]
pub fn document(service: &ServiceDescription, version: &str) -> Value {
    let schemas = Names::new(service.definitions.keys().map(String::as_str));
    let methods = Names::new(service.methods.iter().map(|method| method.name.as_str()));
    let mut document = Document {
        schemas: &schemas,
        requests: Map::new(),
        replies: Map::new(),
        messages: Map::new(),
        operations: Map::new(),
    };
    for (method, id) in service.methods.iter().zip(methods.in_order()) {
        document.add(method, id);
    }
    if !document.replies.is_empty() {
        document.add_fault();
    }
    document.finish(service, version)
}

/// The parts that grow with each method.
struct Document<'a> {
    schemas: &'a Names,
    requests: Map<String, Value>,
    replies: Map<String, Value>,
    messages: Map<String, Value>,
    operations: Map<String, Value>,
}

impl Document<'_> {
    /// Adds a method, which is called `id` in the document.
    fn add(&mut self, method: &MethodDescription, id: &str) {
        let request = format!("{id}.request");
        self.messages.insert(request.clone(), self.request(method));
        self.requests.insert(id.to_owned(), message_reference(&request));
        let operation = match method.is_oneway {
            true => operation(method, id, None),
            false => operation(method, id, Some(self.add_replies(method, id))),
        };
        self.operations.insert(id.to_owned(), operation);
    }

    /// Adds what the method answers, and returns the references to it.
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
        let of = if method.is_oneway { "oneway" } else { "call" };
        let mut message = json!({
            "name": method.name,
            "title": method.signature(),
            "traits": [reference(&["components", "messageTraits", of])],
            "payload": payload,
            "bindings": message_binding(&method.name),
        });
        describe(&mut message, &method.docs);
        message
    }

    fn argument(&self, argument: &ArgumentDescription) -> Value {
        match &argument.schema {
            Some(schema) => references::within_document(schema, self.schemas),
            None => anything(&argument.type_name),
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
            Some(schema) => references::within_document(schema, self.schemas),
            None => anything(type_name),
        };
        json!({
            "name": kind,
            "title": format!("The {kind} of {}", method.name),
            "traits": [reference(&["components", "messageTraits", "reply"])],
            "payload": payload,
            "bindings": message_binding(kind),
        })
    }

    /// What the runtime answers in place of a method, whatever its name.
    fn add_fault(&mut self) {
        let codes: Vec<_> = FaultCode::KNOWN.iter().map(FaultCode::as_str).collect();
        let fault = json!({
            "name": "fault",
            "title": "What the worker's runtime answers in place of the method",
            "traits": [reference(&["components", "messageTraits", "reply"])],
            "payload": {
                "type": "object",
                "properties": {
                    "code": {"type": "string", "description": "There may be others.", "examples": codes},
                    "message": {"type": "string", "description": "For a person to read."},
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
            .zip(self.schemas.in_order())
            .map(|((_, schema), name)| (name, references::within_document(schema, self.schemas)))
            .collect();
        let mut channels = json!({
            "requests": {
                "title": "Requests",
                "address": service.queue,
                "messages": self.requests,
                "bindings": {"amqp": {"is": "queue", "queue": {"name": service.queue}, "bindingVersion": BINDING}},
            },
        });
        if !self.replies.is_empty() {
            channels["replies"] = json!({
                "title": "Replies",
                "description": "Each caller has a queue of its own, and names it with its request.",
                "address": null,
                "messages": self.replies,
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {"name": "", "type": "default"},
                        "bindingVersion": BINDING,
                    },
                },
            });
        }
        json!({
            "asyncapi": "3.0.0",
            "info": {"title": service.name, "version": version, "description": about},
            "defaultContentType": Codec::Json.content_type(),
            "channels": channels,
            "operations": self.operations,
            "components": {
                "schemas": definitions,
                "messages": self.messages,
                "messageTraits": message_traits(),
                "correlationIds": {
                    "correlation_id": {
                        "description": "The property of that name: a reply has that of its request, as it was.",
                        "location": "$message.header#/correlation_id",
                    },
                },
            },
        })
    }
}

fn operation(method: &MethodDescription, id: &str, replies: Option<Vec<Value>>) -> Value {
    let mut binding = json!({"ack": true, "mandatory": true, "bindingVersion": BINDING});
    let mut operation = json!({
        "action": "receive",
        "title": method.name,
        "channel": reference(&["channels", "requests"]),
        "messages": [reference(&["channels", "requests", "messages", id])],
    });
    match replies {
        Some(replies) => {
            binding["deliveryMode"] = json!(1);
            if let Some(timeout) = method.timeout_ms {
                binding["expiration"] = json!(timeout);
            }
            operation["reply"] = json!({
                "address": {
                    "description": "The property of that name.",
                    "location": "$message.header#/reply_to",
                },
                "channel": reference(&["channels", "replies"]),
                "messages": replies,
            });
        }
        None => binding["deliveryMode"] = json!(2),
    }
    operation["bindings"] = json!({"amqp": binding});
    let tags = tags(method);
    if !tags.is_empty() {
        operation["tags"] = json!(tags);
    }
    if let Some(summary) = method.docs.lines().next().filter(|line| !line.is_empty()) {
        operation["summary"] = json!(summary);
    }
    describe(&mut operation, &method.docs);
    operation
}

fn tags(method: &MethodDescription) -> Vec<Value> {
    let tags = [
        (method.is_default, "default", "Serves requests without a `type`."),
        (
            method.is_idempotent,
            "idempotent",
            "May run more than once: a request is repeated until it is answered.",
        ),
        (method.is_oneway, "oneway", "Is never answered."),
    ];
    let tags = tags.into_iter().filter(|(is_there, _, _)| *is_there);
    tags.map(|(_, name, description)| json!({"name": name, "description": description}))
        .collect()
}

/// What messages of one kind have in common.
fn message_traits() -> Value {
    let content_type = Codec::Json.content_type();
    let correlation_id = json!({
        "type": "string",
        "maxLength": 255,
        "description": "The property of that name: anything, such as a random UUID.",
    });
    let users =
        json!({"type": ["string", "number", "boolean"], "description": "The caller's own: 4 KiB in all."});
    json!({
        "call": {
            "contentType": content_type,
            "correlationId": reference(&["components", "correlationIds", "correlation_id"]),
            "headers": {
                "type": "object",
                "properties": {
                    "correlation_id": correlation_id,
                    "reply_to": {
                        "type": "string",
                        "maxLength": 255,
                        "description": "The property of that name: the queue that the caller awaits the reply from, such as `amq.rabbitmq.reply-to`.",
                    },
                },
                "required": ["reply_to"],
                "additionalProperties": users,
            },
        },
        "oneway": {
            "contentType": content_type,
            "headers": {"type": "object", "additionalProperties": users},
        },
        "reply": {
            "contentType": content_type,
            "correlationId": reference(&["components", "correlationIds", "correlation_id"]),
            "headers": {"type": "object", "properties": {"correlation_id": correlation_id}},
        },
    })
}

/// The binding that says what a message's property `type` is.
fn message_binding(message_type: &str) -> Value {
    json!({"amqp": {"messageType": message_type, "bindingVersion": BINDING}})
}

fn message_reference(name: &str) -> Value {
    reference(&["components", "messages", name])
}

/// A reference within the document. The keys on its way have no character that a pointer would have to escape.
fn reference(path: &[&str]) -> Value {
    json!({"$ref": format!("#/{}", path.join("/"))})
}

/// The schema of what has none.
fn anything(type_name: &str) -> Value {
    match type_name {
        "" => json!({}),
        type_name => json!({"description": format!("`{type_name}`, in Rust.")}),
    }
}

fn describe(object: &mut Value, docs: &str) {
    if !docs.is_empty() {
        object["description"] = json!(docs);
    }
}
