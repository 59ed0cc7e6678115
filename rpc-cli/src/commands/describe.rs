//! `rpc describe`.

use clap::Args;
use rpc_contract::{MethodDescription, ServiceDescription};
use rpc_runtime::Broker;
use serde_json::Value;

use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Location};
use crate::method_text::rpc_attribute;
use crate::options::Options;
use crate::output::Output;
use crate::schema_text;
use crate::text::join_lines;

/// Shows a service's methods as its trait declares them, and the fields of its types.
///
/// Types are shown if the service has `#[service(schema)]`. With --json, prints the description
/// that `rpc check` and `rpc asyncapi` read: an array with --versions, or with --queue and no
/// SERVICE; otherwise an object.
#[derive(Debug, Args)]
#[command(
    override_usage = "rpc describe [OPTIONS] <SERVICE>\n       rpc describe [OPTIONS] --queue <QUEUE> [SERVICE]"
)]
#[command(after_help = "\
Examples:
  rpc describe UserDirectory
  rpc describe --queue rpc_queue
  rpc describe UserDirectory --json > user_directory.json")]
pub(crate) struct Describe {
    /// The service's name. Not needed with --queue.
    #[arg(required_unless_present = "queue")]
    service: Option<String>,

    /// Show all versions that workers run, the most common one first.
    #[arg(long, conflicts_with = "queue")]
    versions: bool,

    /// Show the JSON Schemas of types as they are.
    #[arg(long)]
    schemas: bool,

    #[command(flatten)]
    location: Location,
}

impl Describe {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let broker = connect(options).await?;
        let described = self.find(&broker, output).await;
        close(&broker).await;
        match described? {
            Described::One(service) if output.json => output.value(&service)?,
            Described::Several(services) if output.json => output.value(&services)?,
            Described::One(service) => output.text(&text(&service, self.schemas))?,
            Described::Several(services) => {
                let texts = services.iter().map(|service| text(service, self.schemas));
                output.text(&texts.collect::<Vec<_>>().join("\n\n"))?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Finds the service, all its versions, or all services of the queue.
    async fn find(&self, broker: &Broker, output: &Output) -> Result<Described, Failure> {
        let Location { queue, search } = &self.location;
        Ok(match (self.service.as_deref(), queue) {
            (None, Some(queue)) => Described::Several(lookup::on_queue(broker, queue).await?),
            (Some(name), None) if self.versions => {
                Described::Several(lookup::versions(broker, *search, name, output).await?)
            }
            (name, _) => {
                let any_method = None;
                Described::One(lookup::service(broker, &self.location, name, any_method, output).await?)
            }
        })
    }
}

enum Described {
    One(ServiceDescription),
    Several(Vec<ServiceDescription>),
}

/// Shows a service like its trait, and then its types: their fields, or with `schemas` their JSON
/// Schemas, also those of arguments and answers.
fn text(service: &ServiceDescription, schemas: bool) -> String {
    let mut lines = docs(&service.docs, "");
    lines.push(format!("service {} on queue {}", service.name, service.queue));
    if service.methods.is_empty() {
        lines.push("    (no methods)".to_owned());
    }
    for method in &service.methods {
        lines.push(String::new());
        lines.extend(docs(&method.docs, "    "));
        if let Some(attribute) = rpc_attribute(method) {
            lines.push(format!("    {attribute}"));
        }
        lines.push(format!("    {}", method.signature()));
        lines.extend(argument_notes(method));
        if schemas {
            lines.extend(method_schemas(method));
        }
    }
    for (name, schema) in &service.definitions {
        lines.push(String::new());
        if schemas {
            lines.push(format!("    #/definitions/{name}: {schema}"));
        } else {
            lines.extend(schema_text::definition(name, schema));
        }
    }
    join_lines(lines)
}

fn docs(docs: &str, indent: &str) -> Vec<String> {
    let lines = docs
        .lines()
        .map(|line| format!("{indent}/// {line}").trim_end().to_owned());
    lines.collect()
}

/// Returns a line for each argument that is optional or has other names.
fn argument_notes(method: &MethodDescription) -> Vec<String> {
    let mut lines = Vec::new();
    for argument in &method.arguments {
        let mut notes = Vec::new();
        if argument.is_optional {
            notes.push("optional".to_owned());
        }
        if !argument.aliases.is_empty() {
            notes.push(format!("also accepted as {}", argument.aliases.join(", ")));
        }
        if !notes.is_empty() {
            lines.push(format!("        {}: {}", argument.name, notes.join("; ")));
        }
    }
    lines
}

/// Returns a line for each schema of a method.
fn method_schemas(method: &MethodDescription) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |what: &str, schema: Option<&Value>| {
        if let Some(schema) = schema {
            lines.push(format!("        {what}: {schema}"));
        }
    };
    for argument in &method.arguments {
        add(&argument.name, argument.schema.as_ref());
    }
    add("items", method.incoming_schema.as_ref());
    add("result", method.result_schema.as_ref());
    add("error", method.error_schema.as_ref());
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_service_is_shown_like_its_trait() {
        let service = from_value(json!({
            "name": "UserDirectory",
            "queue": "rpc_queue",
            "docs": "Looks users up.\n\nAll of them.",
            "methods": [
                {
                    "name": "get_email", "docs": "The e-mail address.", "returns": "String", "error": "DirectoryError",
                    "default": true, "idempotent": true, "timeout_ms": 90_000,
                    "arguments": [
                        {"name": "id", "type": "&str", "aliases": ["key"], "schema": {"type": "string"}},
                        {"name": "limit", "type": "Option<u32>", "optional": true},
                    ],
                    "result_schema": {"type": "string"},
                },
                {"name": "touch", "oneway": true, "broadcast": true},
                {"name": "export", "cancel": true},
                {"name": "import", "incoming": "User", "incoming_schema": {"type": "object"}},
            ],
            "definitions": {"User": {"type": "object", "properties": {"id": {"type": "integer", "format": "uint64"}}}},
        }));
        let service = service.unwrap();
        assert_eq!(
            text(&service, false),
            "\
/// Looks users up.
///
/// All of them.
service UserDirectory on queue rpc_queue

    /// The e-mail address.
    #[rpc(default, idempotent, timeout = \"1m 30s\")]
    get_email(id: &str, limit: Option<u32>) -> Result<String, DirectoryError>
        id: also accepted as key
        limit: optional

    #[rpc(oneway, broadcast)]
    touch()

    #[rpc(cancel)]
    export()

    import(Incoming<User>)

    type User
        id: u64    (optional)"
        );
        let with_schemas = text(&service, true);
        assert!(
            with_schemas
                .contains("\n        id: {\"type\":\"string\"}\n        result: {\"type\":\"string\"}\n")
        );
        assert!(with_schemas.contains("\n        items: {\"type\":\"object\"}\n"));
        assert!(with_schemas.contains("\n    #/definitions/User: {"));
        assert!(text(&ServiceDescription::new("S", "q"), false).ends_with("(no methods)"));
    }
}
