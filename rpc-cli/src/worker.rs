//! Shows workers.

use rpc_runtime::discovery::Worker;

/// Returns the first eight bytes of a worker's id, or all of it if it cannot be cut there.
pub(crate) fn short_id(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Returns the worker's name, or its application's, or `-`.
pub(crate) fn name(worker: &Worker) -> String {
    let name = worker.name.as_ref().or(worker.app_id.as_ref());
    name.cloned().unwrap_or_else(|| "-".to_owned())
}
