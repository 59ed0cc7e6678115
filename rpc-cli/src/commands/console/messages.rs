//! The messages from which the page learns what runs: lines of JSON. Pure.

use std::collections::BTreeSet;

use rpc_contract::generate::with_schemas;
use rpc_contract::{MethodDescription, ServiceDescription};
use rpc_runtime::discovery::{Discovered, FoundService, Worker, WorkerDescription};
use serde_json::{Value, json};

use crate::depths::{self, Depths, JobDepths};
use crate::method_stats::rows::Rows;
use crate::method_text::{has_jobs, rpc_attribute};
use crate::schema_text;

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
    let services = found.map(Discovered::services).unwrap_or_default();
    let services: Vec<_> = services.iter().filter_map(service).collect();
    json!({"kind": "catalog", "services": services}).to_string()
}

fn service(found: &FoundService<'_>) -> Option<Value> {
    let described = found.descriptions.first()?;
    // Without schemas of its own, the service gets some that are made from the spelling of its types,
    // so that the page can show input fields for arguments such as `Vec<u64>`.
    let service = with_schemas(described);
    // Only the service's own schemas tell what its types are: those made from the spelling allow any
    // value for them.
    let type_lines = described.definitions.iter();
    let type_lines = type_lines.flat_map(|(name, schema)| schema_text::definition(name, schema));
    Some(json!({
        "name": found.name,
        "queue": found.queue,
        "docs": service.docs,
        "workers": found.workers.iter().map(|worker| &worker.id).collect::<Vec<_>>(),
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
    /// The request queues of all services.
    pub(super) queues: BTreeSet<&'a str>,
    pub(super) depths: &'a Depths,
    pub(super) rows: &'a Rows,
}

pub(super) fn sample(sample: &Sample<'_>) -> String {
    let queues = sample.queues.iter().map(|queue| {
        let jobs = JobDepths::of(sample.depths, queue);
        let mut json = json!({"queue": queue, "waiting": jobs.waiting, "dead": jobs.dead});
        depths::add_to_json(&mut json, sample.depths, queue);
        json
    });
    let methods = sample.rows.iter().map(|(key, row)| row.json(key));
    json!({
        "kind": "sample",
        "at": sample.at,
        "complete": sample.is_complete,
        "refused": sample.refused,
        "workers": sample.workers,
        "queues": queues.collect::<Vec<_>>(),
        "methods": methods.collect::<Vec<_>>(),
    })
    .to_string()
}

/// A round that failed, and when.
pub(super) fn trouble(at: u128, message: &str) -> String {
    json!({"kind": "trouble", "at": at, "message": message}).to_string()
}

/// The most common description of each service, by which it is called.
pub(super) fn callable(found: Option<&Discovered<WorkerDescription>>) -> Vec<ServiceDescription> {
    let services = found.map(Discovered::services).unwrap_or_default();
    let described = services.iter().filter_map(|service| {
        let mut description = (*service.descriptions.first()?).clone();
        service.queue.clone_into(&mut description.queue);
        Some(description)
    });
    described.collect()
}
