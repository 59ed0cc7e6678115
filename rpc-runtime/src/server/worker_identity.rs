//! The identity of a worker, as it appears in its descriptions and in the header `rpc-worker`.

use tokio::time::Instant;
use uuid::Uuid;

use crate::describe::Worker;
use crate::host::host_name;
use crate::protocol::{MAX_WORKER_HEADER, ShortStr, random_id};

/// The identity of a worker: an id of its own, and the names that its user chose.
#[derive(Debug, Clone)]
pub(super) struct WorkerIdentity {
    id: Uuid,
    name: Option<String>,
    app_id: Option<String>,
    version: Option<String>,
    started: Instant,
}

impl WorkerIdentity {
    /// The identity of a worker that starts now.
    pub(super) fn new(name: Option<String>, app_id: Option<String>, version: Option<String>) -> Self {
        Self {
            id: random_id(),
            name,
            app_id,
            version,
            started: Instant::now(),
        }
    }

    pub(super) fn id(&self) -> ShortStr {
        ShortStr::from_uuid(self.id)
    }

    /// Returns the value of the header that identifies the worker. It has the id alone if the
    /// worker does not describe itself, or if its names are too long for the header.
    pub(super) fn header(&self, describes_itself: bool) -> String {
        if describes_itself
            && let Ok(header) = serde_json::to_string(&self.worker())
            && header.len() <= MAX_WORKER_HEADER
        {
            return header;
        }
        format!(r#"{{"id":"{}"}}"#, self.id)
    }

    /// Returns the value of the header that identifies the worker and one of its streams: `run` is
    /// the number of the stream.
    pub(super) fn header_of_run(&self, run: u64) -> String {
        format!(r#"{{"id":"{}","run":{run}}}"#, self.id)
    }

    /// Describes the worker as of now, for the replies of the built-in methods and for the header
    /// that identifies the worker.
    pub(super) fn worker(&self) -> Worker {
        Worker {
            id: self.id.to_string(),
            name: self.name.clone(),
            host: host_name().to_owned(),
            pid: std::process::id(),
            app_id: self.app_id.clone(),
            version: self.version.clone(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_keeps_its_id_and_no_other_has_it() {
        let one = WorkerIdentity::new(Some("a".into()), None, Some("2.3".into()));
        let other = WorkerIdentity::new(None, None, None);
        assert_eq!(one.worker().id, one.worker().id);
        assert_ne!(one.worker().id, other.worker().id);
        assert_eq!(one.worker().name.as_deref(), Some("a"));
        assert_eq!(one.worker().version.as_deref(), Some("2.3"));
        assert_eq!(other.worker().version, None);
        assert_eq!(one.worker().pid, std::process::id());
        assert!(one.header(true).contains(r#""name":"a""#));
        for header in [
            one.header(false),
            WorkerIdentity::new(Some("x".repeat(2000)), None, None).header(true),
        ] {
            let worker: Worker = serde_json::from_str(&header).unwrap();
            assert!(!worker.id.is_empty() && worker.name.is_none() && worker.host.is_empty());
        }
        #[cfg(target_os = "linux")]
        assert!(!one.worker().host.is_empty() && !one.worker().host.contains('\n'));
    }
}
