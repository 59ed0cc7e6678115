//! The methods that a worker has in addition to those of its services, unless its self-description
//! is off.

use super::descriptor::{MethodDescriptor, ServiceDescriptor};

pub(crate) const PING: MethodDescriptor = MethodDescriptor::new("rpc.ping", &[])
    .idempotent()
    .returns("Worker")
    .docs("The worker's identity.");

pub(crate) const DESCRIBE: MethodDescriptor = MethodDescriptor::new("rpc.describe", &[])
    .idempotent()
    .returns("WorkerDescription")
    .docs("The worker's identity and the services on this queue.");

pub(crate) const STATS: MethodDescriptor = MethodDescriptor::new("rpc.stats", &[])
    .idempotent()
    .returns("WorkerStats")
    .docs("The statistics of the worker's methods.");

/// The built-in methods as a service. It has no queue of its own.
pub(crate) static BUILT_IN: ServiceDescriptor =
    ServiceDescriptor::new("rpc", "", &[PING, DESCRIBE, STATS]).docs("The built-in methods of each worker.");

/// The prefix of the names of built-in methods. No other method may have it.
const PREFIX: &str = "rpc.";

/// Whether a name is that of a built-in method, or is reserved for a later one.
pub(crate) fn is_built_in_name(method: &str) -> bool {
    method.starts_with(PREFIX)
}
