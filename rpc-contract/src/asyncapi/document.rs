//! Puts the parts of a document together.

use serde_json::{Value, json};

use super::messages::{self, CONTENT_TYPE, Messages};
use super::options::{AsyncApi, Options, View};
use super::schemas::Schemas;
use super::{channels, operations};
use crate::ServiceDescription;
use crate::generate::with_schemas;

const ABOUT: &str = "Messages go through the default exchange, where the routing key is the name of a queue, unless \
    their channel names another exchange. This document describes their bodies in `application/json`. In \
    `application/msgpack` they have the same structure; in `text/plain` a request is its only argument as text, and a \
    reply is its value as text. A reply is in the content type of its request.";

impl Options {
    /// Makes the document of a service.
    #[must_use]
    pub fn document(&self, service: &ServiceDescription) -> Value {
        let service = with_schemas(service);
        let mut schemas = Schemas::new(&service.definitions);
        // Named types take their titles before messages and the types within these do.
        let definitions = schemas.definitions();
        let mut messages = Messages::new(schemas);
        let methods = service.methods.iter();
        let methods: Vec<_> = methods
            .map(|method| (method, messages.add_method(method)))
            .collect();
        let channels = channels::all(&service.queue, &methods, messages.fault(), self);
        let operations = operations::all(&methods, messages.fault(), self.view);
        let has_replies = methods.iter().any(|(method, _)| !method.is_oneway);
        let mut document = json!({
            "asyncapi": match self.version {
                AsyncApi::V3_0 => "3.0.0",
                AsyncApi::V3_1 => "3.1.0",
            },
            "info": {
                "title": service.name,
                "version": self.api_version,
                "description": about(&service.docs, self.view),
            },
            "defaultContentType": CONTENT_TYPE,
            "channels": channels,
            "operations": operations,
            "components": {
                "schemas": definitions,
                "messages": messages.finish(has_replies),
                "messageTraits": messages::traits(),
                "correlationIds": {
                    "correlation_id": {
                        "description": "The property `correlation_id`: a reply has the one of its request.",
                        "location": "$message.header#/correlation_id",
                    },
                },
            },
        });
        if let Some(server) = &self.server {
            document["servers"] = json!({"broker": server.object()});
            document["components"]["securitySchemes"] = json!(server.schemes());
        }
        remove_prototypes(&mut document);
        document
    }
}

/// Removes every key `__proto__`, such as that of a field with this name. JavaScript takes it for
/// the prototype of an object, and AsyncAPI's official parser cannot read a document that has it.
fn remove_prototypes(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("__proto__");
            object.values_mut().for_each(remove_prototypes);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_prototypes),
        _ => {}
    }
}

/// Returns the description of the service: its docs, and then how to read the document.
fn about(docs: &str, view: View) -> String {
    let program = match view {
        View::Caller => "A program that calls a service over RabbitMQ.",
        View::Worker => "A service over RabbitMQ.",
    };
    match docs.trim() {
        "" => format!("{program} {ABOUT}"),
        docs => format!("{docs}\n\n{program} {ABOUT}"),
    }
}
