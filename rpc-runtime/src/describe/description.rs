//! Makes the [`ServiceDescription`] of a [`ServiceDescriptor`].

use std::time::Duration;

use rpc_contract::{ArgumentDescription, MethodDescription, RetryDescription, ServiceDescription};

use super::descriptor::{ArgumentDescriptor, MethodDescriptor, ServiceDescriptor};

impl ServiceDescriptor {
    /// Returns the description, which can be stored, sent and compared.
    ///
    /// If the service has `#[service(schema)]`, this function makes its JSON Schemas each time.
    /// Store the result if you need it often.
    #[must_use]
    pub fn description(&self) -> ServiceDescription {
        self.into()
    }
}

impl From<&ServiceDescriptor> for ServiceDescription {
    fn from(service: &ServiceDescriptor) -> Self {
        let mut description = Self::new(service.name, service.queue);
        service.docs.clone_into(&mut description.docs);
        description.methods = service.methods.iter().map(MethodDescription::from).collect();
        match service.schemas {
            Some(source) => source.add_to(description),
            None => description,
        }
    }
}

impl From<&MethodDescriptor> for MethodDescription {
    fn from(method: &MethodDescriptor) -> Self {
        let mut description = Self::new(method.name);
        method.docs.clone_into(&mut description.docs);
        let arguments = method.arguments.iter().enumerate();
        description.arguments = arguments
            .map(|(index, name)| describe_argument(name, method.argument_details.get(index)))
            .collect();
        method.returns.clone_into(&mut description.returns);
        description.error = method.error.map(str::to_owned);
        description.is_default = method.is_default;
        description.is_idempotent = method.is_idempotent;
        description.is_oneway = method.is_oneway;
        description.is_broadcast = method.is_broadcast;
        description.is_cancellable = method.is_cancellable;
        description.is_streaming = method.is_streaming;
        description.incoming = method.incoming.map(str::to_owned);
        description.resumed_by = method.resumed_by.map(str::to_owned);
        description.timeout_ms = method.timeout.map(milliseconds);
        description.retry = method.retry.map(|policy| {
            let (min, max) = (policy.min_delay, policy.max_delay);
            RetryDescription::new(policy.times, milliseconds(min), milliseconds(max))
        });
        description
    }
}

/// Describes an argument. Without details, its type is not known.
fn describe_argument(name: &str, details: Option<&ArgumentDescriptor>) -> ArgumentDescription {
    let Some(details) = details else {
        return ArgumentDescription::new(name, "");
    };
    let mut description = ArgumentDescription::new(name, details.type_name);
    description.is_optional = details.is_optional;
    description.aliases = details.aliases.iter().map(|&alias| alias.to_owned()).collect();
    description
}

/// Returns a time in whole milliseconds, rounded down.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::Codec;
    use crate::protocol::FaultCode;

    const GET: MethodDescriptor = MethodDescriptor::new("get", &["id", "limit"])
        .argument_details(&[
            ArgumentDescriptor::new("&str").aliases(&["key"]),
            ArgumentDescriptor::new("Option<u32>").optional(),
        ])
        .returns("Vec<User>")
        .error("Error")
        .docs("Gets.")
        .default_method()
        .idempotent()
        .timeout(Duration::from_secs(2));
    const SEEN: MethodDescriptor = MethodDescriptor::new("seen", &["id"]).oneway();
    const CLEAR: MethodDescriptor = MethodDescriptor::new("clear", &[]).broadcast();
    const EXPORT: MethodDescriptor = MethodDescriptor::new("export", &[]).cancellable();
    const LIST: MethodDescriptor = MethodDescriptor::new("list", &[]).streaming().returns("User");
    const STORE: ServiceDescriptor =
        ServiceDescriptor::new("Store", "store", &[GET, SEEN, CLEAR, EXPORT, LIST]);

    #[test]
    fn a_description_has_what_the_descriptor_has() {
        let expected = json!({
            "name": "Store",
            "queue": "store",
            "methods": [
                {
                    "name": "get",
                    "docs": "Gets.",
                    "arguments": [
                        {"name": "id", "type": "&str", "aliases": ["key"]},
                        {"name": "limit", "type": "Option<u32>", "optional": true},
                    ],
                    "returns": "Vec<User>",
                    "error": "Error",
                    "default": true,
                    "idempotent": true,
                    "timeout_ms": 2000,
                },
                {"name": "seen", "arguments": [{"name": "id"}], "oneway": true},
                {"name": "clear", "broadcast": true},
                {"name": "export", "cancel": true},
                {"name": "list", "returns": "User", "stream": true},
            ],
        });
        assert_eq!(serde_json::to_value(STORE.description()).unwrap(), expected);
    }

    #[test]
    fn every_codec_reads_a_description_that_it_wrote() {
        let mut description = STORE.description();
        // All kinds of JSON, numbers in particular: with `serde_json/arbitrary_precision` they
        // differ.
        let schema =
            json!({"const": [null, true, "x", {"n": 1.5}], "minimum": u64::MAX, "maximum": i64::MIN});
        description.methods[0].result_schema = Some(schema.clone());
        description.definitions.insert("Page<User>".to_owned(), schema);
        for codec in [Codec::Json, Codec::MessagePack] {
            let written = codec.encode(&description).unwrap();
            let read: ServiceDescription = codec.decode(&written).unwrap();
            assert_eq!(read, description);
        }
    }

    /// rpc-contract does not depend on this crate and has the codes as plain text.
    #[test]
    fn asyncapi_documents_have_all_codes_of_faults() {
        let document = rpc_contract::asyncapi::document(&STORE.description(), "1.0.0");
        let code = &document["components"]["messages"]["Fault"]["payload"]["properties"]["code"];
        let codes: Vec<_> = FaultCode::KNOWN.iter().map(FaultCode::as_str).collect();
        assert_eq!(code["examples"], json!(codes));
        assert_eq!(document["defaultContentType"], Codec::Json.content_type());
    }
}
