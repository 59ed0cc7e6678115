//! `rpc describe`.

use clap::Args;
use rpc_contract::{MethodDescription, ServiceDescription};
use serde_json::Value;

use crate::cli::Options;
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Where};
use crate::output::{Output, joined};

/// Shows what a service can do, as its trait has it.
///
/// With `--json` it is the description that `rpc check` and `rpc asyncapi` read: an object where a service is named, and an array where only
/// its queue is, or with `--versions`.
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
    /// The service's name; not needed with --queue.
    #[arg(required_unless_present = "queue")]
    service: Option<String>,

    /// Show all versions that run, that of most workers first.
    #[arg(long, conflicts_with = "queue")]
    versions: bool,

    /// Show the JSON Schemas too, where there are any.
    #[arg(long)]
    schemas: bool,

    #[command(flatten)]
    place: Where,
}

impl Describe {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let broker = connect(options).await?;
        let described = self.find(&broker, output).await;
        close(&broker).await;
        match described? {
            Described::One(service) if output.json => output.value(&service)?,
            Described::All(services) if output.json => output.value(&services)?,
            Described::One(service) => output.text(&text(&service, self.schemas))?,
            Described::All(services) => {
                let texts = services.iter().map(|service| text(service, self.schemas));
                output.text(&texts.collect::<Vec<_>>().join("\n\n"))?;
            }
        }
        Ok(Outcome::Done)
    }

    async fn find(&self, broker: &rpc_runtime::Broker, output: &Output) -> Result<Described, Failure> {
        match (&self.service, &self.place.queue) {
            (None, Some(queue)) => Ok(Described::All(lookup::on_queue(broker, queue).await?)),
            (Some(name), None) if self.versions => Ok(Described::All(
                lookup::versions(broker, self.place.window, name, output).await?,
            )),
            (name, _) => {
                let name = name.as_deref();
                Ok(Described::One(
                    lookup::service(broker, &self.place, name, None, output).await?,
                ))
            }
        }
    }
}

enum Described {
    One(ServiceDescription),
    All(Vec<ServiceDescription>),
}

/// A service as a person would write its trait.
fn text(service: &ServiceDescription, schemas: bool) -> String {
    let mut lines = docs(&service.docs, "");
    lines.push(format!("service {} on queue {}", service.name, service.queue));
    if service.methods.is_empty() {
        lines.push("    (no methods)".to_owned());
    }
    for method in &service.methods {
        lines.push(String::new());
        lines.extend(docs(&method.docs, "    "));
        if let Some(options) = options(method) {
            lines.push(format!("    {options}"));
        }
        lines.push(format!("    {}", method.signature()));
        lines.extend(arguments(method));
        if schemas {
            lines.extend(method_schemas(method));
        }
    }
    if schemas && !service.definitions.is_empty() {
        lines.push(String::new());
        for (name, schema) in &service.definitions {
            lines.push(format!("    #/definitions/{name}: {schema}"));
        }
    }
    joined(lines)
}

fn docs(docs: &str, indent: &str) -> Vec<String> {
    let lines = docs
        .lines()
        .map(|line| format!("{indent}/// {line}").trim_end().to_owned());
    lines.collect()
}

/// What the trait's attribute says of a method, if anything.
fn options(method: &MethodDescription) -> Option<String> {
    let flags = [
        (method.is_default, "default"),
        (method.is_idempotent, "idempotent"),
        (method.is_oneway, "oneway"),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
    let mut options: Vec<_> = flags.map(|(_, name)| name.to_owned()).collect();
    options.extend(
        method
            .timeout()
            .map(|timeout| format!("timeout = \"{timeout:?}\"")),
    );
    (!options.is_empty()).then(|| format!("#[rpc({})]", options.join(", ")))
}

/// What the signature does not show of the arguments.
fn arguments(method: &MethodDescription) -> Vec<String> {
    let mut lines = Vec::new();
    for argument in &method.arguments {
        let mut said = Vec::new();
        if argument.is_optional {
            said.push("may be left out".to_owned());
        }
        if !argument.aliases.is_empty() {
            said.push(format!("also read as {}", argument.aliases.join(", ")));
        }
        if !said.is_empty() {
            lines.push(format!("        {}: {}", argument.name, said.join("; ")));
        }
    }
    lines
}

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
    add("result", method.result_schema.as_ref());
    add("error", method.error_schema.as_ref());
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_service_is_shown_as_its_trait() {
        let service = from_value(json!({
            "name": "UserDirectory",
            "queue": "rpc_queue",
            "docs": "Looks users up.\n\nAll of them.",
            "methods": [
                {
                    "name": "get_email", "docs": "The e-mail address.", "returns": "String", "error": "DirectoryError",
                    "default": true, "idempotent": true, "timeout_ms": 2000,
                    "arguments": [
                        {"name": "id", "type": "&str", "aliases": ["key"], "schema": {"type": "string"}},
                        {"name": "limit", "type": "Option<u32>", "optional": true},
                    ],
                    "result_schema": {"type": "string"},
                },
                {"name": "touch", "oneway": true},
            ],
            "definitions": {"A": true},
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
    #[rpc(default, idempotent, timeout = \"2s\")]
    get_email(id: &str, limit: Option<u32>) -> Result<String, DirectoryError>
        id: also read as key
        limit: may be left out

    #[rpc(oneway)]
    touch()"
        );
        let with_schemas = text(&service, true);
        assert!(
            with_schemas
                .contains("\n        id: {\"type\":\"string\"}\n        result: {\"type\":\"string\"}\n")
        );
        assert!(with_schemas.ends_with("\n    #/definitions/A: true"));
        assert!(text(&ServiceDescription::new("S", "q"), false).ends_with("(no methods)"));
    }
}
