//! The messages from which the page learns what runs: lines of JSON. Does no I/O.

use std::collections::BTreeSet;

use rpc_contract::generate::with_schemas;
use rpc_contract::{MethodDescription, ServiceDescription};
use rpc_runtime::discovery::{Discovered, FoundService, Worker, WorkerDescription};
use serde_json::{Value, json};

use crate::depths::{self, Depths, JobDepths};
use crate::method_stats::rows::Rows;
use crate::method_text::{has_jobs, rpc_attribute};
use crate::schema_text;

/// How many services and queues the page shows. Anyone can describe a service: what is made of a
/// description for the page is much larger than the description.
pub(super) const MAX_SERVICES: usize = 200;

/// How many methods all services together show, and for how many a sample has counts.
const MAX_METHODS: usize = 2000;

/// Methods with more arguments are not shown.
const MAX_ARGUMENTS: usize = 100;

/// How many workers are shown, and how many of a service.
const MAX_WORKERS: usize = 1000;

/// What does not change while the console runs.
pub(super) fn hello(broker: &str, is_read_only: bool, interval_ms: u128) -> String {
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "kind": "hello",
        "version": version,
        "broker": broker,
        "read_only": is_read_only,
        "interval_ms": interval_ms,
    })
    .to_string()
}

/// The services, with everything that the page needs to show and call them.
pub(super) fn catalog(found: Option<&Discovered<WorkerDescription>>) -> String {
    let all = found.map(Discovered::services).unwrap_or_default();
    let mut limits = MethodLimits {
        left: MAX_METHODS,
        hidden: 0,
    };
    let shown = all.iter().take(MAX_SERVICES);
    let services: Vec<_> = shown.filter_map(|found| service(found, &mut limits)).collect();
    json!({
        "kind": "catalog",
        "services": services,
        "hidden_services": all.len().saturating_sub(MAX_SERVICES),
        "hidden_methods": limits.hidden,
    })
    .to_string()
}

/// How many methods of all services are shown.
struct MethodLimits {
    /// How many further methods may be shown.
    left: usize,
    /// How many methods of the shown services are hidden.
    hidden: usize,
}

impl MethodLimits {
    /// Returns the description with only the methods that may still be shown, and counts those and
    /// the hidden ones. Does not clone the hidden ones: a hostile worker may describe a million.
    fn limit(&mut self, described: &ServiceDescription) -> ServiceDescription {
        let methods = described.methods.iter();
        let shown = methods
            .filter(|method| method.arguments.len() <= MAX_ARGUMENTS)
            .take(self.left);
        let shown: Vec<_> = shown.cloned().collect();
        self.left -= shown.len();
        self.hidden += described.methods.len() - shown.len();
        let mut limited = ServiceDescription::new(&described.name, &described.queue);
        limited.docs.clone_from(&described.docs);
        limited.definitions.clone_from(&described.definitions);
        limited.methods = shown;
        limited
    }
}

/// Returns a service for the page, with the methods that `limits` allows. `None` without a
/// description, which does not happen: services are found by their descriptions.
fn service(found: &FoundService<'_>, limits: &mut MethodLimits) -> Option<Value> {
    let described = &limits.limit(found.descriptions.first()?);
    // Without schemas of its own, the service gets some that are made from the spelling of its
    // types, so that the page can show input fields for arguments such as `Vec<u64>`.
    let service = with_schemas(described);
    // Only the service's own schemas tell what its types are: those made from the spelling allow
    // any value for them.
    let type_lines = described.definitions.iter();
    let type_lines = type_lines.flat_map(|(name, schema)| schema_text::definition(name, schema));
    Some(json!({
        "name": found.name,
        "queue": found.queue,
        "docs": service.docs,
        "workers": found.workers.iter().take(MAX_WORKERS).map(|worker| &worker.id).collect::<Vec<_>>(),
        "versions": found.descriptions.len(),
        "jobs": has_jobs(found),
        "type_lines": type_lines.collect::<Vec<_>>(),
        "definitions": service.definitions,
        "methods": service.methods.iter().map(method).collect::<Vec<_>>(),
    }))
}

fn method(method: &MethodDescription) -> Value {
    let arguments = method.arguments.iter().map(|argument| {
        json!({
            "name": argument.name,
            "type": argument.type_name,
            "optional": argument.is_optional,
            "schema": argument.schema,
        })
    });
    let incoming = method
        .incoming
        .as_ref()
        .map(|item| json!({"type": item, "schema": method.incoming_schema}));
    json!({
        "name": method.name,
        "docs": method.docs,
        "signature": method.signature(),
        "attribute": rpc_attribute(method),
        "arguments": arguments.collect::<Vec<_>>(),
        "incoming": incoming,
        "oneway": method.is_oneway,
        "idempotent": method.is_idempotent,
        "broadcast": method.is_broadcast,
        "cancel": method.is_cancellable,
        "stream": method.is_streaming,
        "timeout_ms": method.timeout_ms,
    })
}

/// Everything that changes from one round to the next.
pub(super) struct Sample<'a> {
    /// In milliseconds since 1970.
    pub(super) at: u128,
    /// Whether no answer of a worker is known to be missing.
    pub(super) is_complete: bool,
    /// How many workers refused to answer.
    pub(super) refused: usize,
    pub(super) workers: Vec<&'a Worker>,
    /// The request queues of the services that are shown.
    pub(super) queues: BTreeSet<&'a str>,
    pub(super) depths: &'a Depths,
    pub(super) rows: &'a Rows,
}

/// The line of a round that did not fail.
pub(super) fn sample(sample: &Sample<'_>) -> String {
    let queues = sample.queues.iter().map(|queue| {
        let jobs = JobDepths::of(sample.depths, queue);
        let mut json = json!({"queue": queue, "waiting": jobs.waiting, "dead": jobs.dead});
        depths::add_to_json(&mut json, sample.depths, queue);
        json
    });
    let methods = sample
        .rows
        .iter()
        .take(MAX_METHODS)
        .map(|(key, row)| row.json(key));
    json!({
        "kind": "sample",
        "at": sample.at,
        "complete": sample.is_complete,
        "refused": sample.refused,
        "workers": sample.workers.iter().take(MAX_WORKERS).collect::<Vec<_>>(),
        "queues": queues.collect::<Vec<_>>(),
        "methods": methods.collect::<Vec<_>>(),
    })
    .to_string()
}

/// A round that failed, and when.
pub(super) fn trouble(at: u128, message: &str) -> String {
    json!({"kind": "trouble", "at": at, "message": message}).to_string()
}

/// The most common description of each service, by which it is called. Calls go to the queue on
/// which the service was found, whatever queue its description names.
pub(super) fn callable(found: Option<&Discovered<WorkerDescription>>) -> Vec<ServiceDescription> {
    let services = found.map(Discovered::services).unwrap_or_default();
    let described = services.iter().filter_map(|service| {
        let mut description = (*service.descriptions.first()?).clone();
        service.queue.clone_into(&mut description.queue);
        Some(description)
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    #[tokio::test]
    async fn what_anyone_describes_is_shown_within_limits() {
        // Only discovery makes such an answer.
        let discover = rpc_runtime::Broker::in_process().discover();
        let mut found = discover.services().await.unwrap();
        let many = |count: usize, name: &str| -> Vec<_> {
            let names = (0..count).map(|number| json!({"name": format!("{name}{number}")}));
            names.collect()
        };
        let mut methods = many(3 * MAX_METHODS, "m");
        methods[0]["arguments"] = many(MAX_ARGUMENTS + 1, "a").into();
        let mut services = many(2 * MAX_SERVICES, "s");
        services[0]["methods"] = methods.into();
        services[1]["methods"] = many(1, "n").into();
        let queues = json!([{"queue": "q", "services": services}]);
        found.workers = vec![from_value(json!({"worker": {"id": "1"}, "queues": queues})).unwrap()];

        let catalog: Value = serde_json::from_str(&catalog(Some(&found))).unwrap();
        let shown = catalog["services"].as_array().unwrap();
        assert_eq!(shown.len(), MAX_SERVICES);
        let methods = shown
            .iter()
            .map(|service| service["methods"].as_array().unwrap().len());
        assert_eq!(methods.sum::<usize>(), MAX_METHODS);
        // The one with many arguments is not the first.
        assert_eq!(shown[0]["methods"][0]["name"], "m1");
        assert_eq!(catalog["hidden_services"], MAX_SERVICES);
        assert_eq!(catalog["hidden_methods"], 2 * MAX_METHODS + 1);
    }
}
