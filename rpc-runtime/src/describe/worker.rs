//! How workers describe themselves.

use std::fmt;
use std::time::Duration;

use rpc_contract::ServiceDescription;
use serde::{Deserialize, Serialize};

use crate::escape::OneLine;

/// The identity of a worker, which is one running [`Server`](crate::Server).
///
/// It comes from the worker and is not checked. As in a [`ServiceDescription`], missing fields are
/// empty or zero, and unknown fields are skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Worker {
    /// A random UUID, which is new each time a server starts.
    pub id: String,
    /// The name that the operator gave it: see [`Server::worker_name`](crate::Server::worker_name).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The host's name. Empty if it is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The process's id.
    pub pid: u32,
    /// The application's name: see [`BrokerBuilder::app_id`](crate::BrokerBuilder::app_id).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// The application's version: see [`Server::version`](crate::Server::version).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version of rpc-runtime.
    pub runtime_version: String,
    /// How long ago the server started, in milliseconds.
    pub uptime_ms: u64,
}

impl Worker {
    /// Returns how long ago the server started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        Duration::from_millis(self.uptime_ms)
    }
}

/// On one line: `worker 5f0c7c1e-… "mailer-3" of shop 2.3.1 on web-1, process 4711, rpc-runtime
/// 0.1.0, up 62s`.
impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names come from the worker and may contain line feeds.
        write!(f, "worker {}", OneLine(&self.id))?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        match (&self.app_id, &self.version) {
            (Some(app_id), Some(version)) => write!(f, " of {} {}", OneLine(app_id), OneLine(version))?,
            (Some(app_id), None) => write!(f, " of {}", OneLine(app_id))?,
            (None, Some(version)) => write!(f, " of version {}", OneLine(version))?,
            (None, None) => {}
        }
        if !self.host.is_empty() {
            write!(f, " on {}", OneLine(&self.host))?;
        }
        let version = OneLine(&self.runtime_version);
        let (pid, seconds) = (self.pid, self.uptime().as_secs());
        write!(f, ", process {pid}, rpc-runtime {version}, up {seconds}s")
    }
}

/// The reply to `rpc.describe`: a worker and what it serves.
///
/// A reply to a request through a service's queue has this queue only. A reply to a request through
/// the control exchange has all queues of the worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkerDescription {
    /// The worker.
    pub worker: Worker,
    /// The queues that it serves.
    pub queues: Vec<QueueDescription>,
}

impl WorkerDescription {
    /// Returns the services on all queues.
    pub fn services(&self) -> impl Iterator<Item = &ServiceDescription> {
        self.queues.iter().flat_map(|queue| &queue.services)
    }

    /// Returns the service with this name, on the first queue that has it.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceDescription> {
        self.services().find(|service| service.name == name)
    }
}

/// A queue that a worker serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct QueueDescription {
    /// The queue's name.
    pub queue: String,
    /// The services on it. The `queue` of each is this one, even if its trait names another.
    pub services: Vec<ServiceDescription>,
}

/// The reply in plain text: a line for the worker, and one for each service and each method.
impl fmt::Display for WorkerDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.worker)?;
        for QueueDescription { services, .. } in &self.queues {
            if !services.is_empty() {
                write!(f, "\n{}", Services(services))?;
            }
        }
        Ok(())
    }
}

/// Services as text, with a line for each service and method.
struct Services<'a>(&'a [ServiceDescription]);

impl fmt::Display for Services<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, service) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{} on {}", OneLine(&service.name), OneLine(&service.queue))?;
            for method in &service.methods {
                write!(f, "\n  {}", OneLine(method.signature()))?;
                for (is_set, option) in [
                    (method.is_default, "default"),
                    (method.is_idempotent, "idempotent"),
                    (method.is_oneway, "oneway"),
                    (method.is_broadcast, "broadcast"),
                    (method.is_cancellable, "cancel"),
                    (method.is_streaming, "stream"),
                    (method.incoming.is_some(), "incoming"),
                    (method.resumed_by.is_some(), "resume"),
                ] {
                    if is_set {
                        write!(f, " [{option}]")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc_contract::MethodDescription;

    fn worker() -> Worker {
        Worker {
            id: "7".into(),
            name: Some("mailer".into()),
            host: "web-1".into(),
            pid: 4711,
            app_id: Some("shop".into()),
            version: Some("2.3.1".into()),
            runtime_version: "0.1.0".into(),
            uptime_ms: 62_400,
        }
    }

    #[test]
    fn a_worker_is_shown_on_one_line() {
        let text = worker().to_string();
        assert_eq!(
            text,
            r#"worker 7 "mailer" of shop 2.3.1 on web-1, process 4711, rpc-runtime 0.1.0, up 62s"#
        );
        let nameless = Worker {
            app_id: None,
            ..worker()
        };
        assert!(
            nameless
                .to_string()
                .starts_with(r#"worker 7 "mailer" of version 2.3.1 on web-1"#)
        );
        let unknown = Worker::default().to_string();
        assert_eq!(unknown, "worker , process 0, rpc-runtime , up 0s");
        let forged = || "x\nworker 8\u{1b}[2J".to_owned();
        let liar = Worker {
            id: forged(),
            name: Some(forged()),
            host: forged(),
            app_id: Some(forged()),
            version: Some(forged()),
            runtime_version: forged(),
            ..worker()
        };
        assert!(!liar.to_string().contains(char::is_control), "{liar}");
    }

    #[test]
    fn a_description_has_a_line_per_service_and_method() {
        let mut get = MethodDescription::new("get");
        (get.is_default, get.is_idempotent) = (true, true);
        let mut store = ServiceDescription::new("Store", "store");
        let mut clear = MethodDescription::new("clear");
        (clear.is_oneway, clear.is_broadcast) = (true, true);
        store.methods = vec![get, MethodDescription::new("put"), clear];
        let queue = QueueDescription {
            queue: "store".into(),
            services: vec![store, ServiceDescription::new("Log", "store")],
        };
        let description = WorkerDescription {
            worker: Worker::default(),
            queues: vec![queue],
        };
        let text = description.to_string();
        assert_eq!(description.services().count(), 2);
        assert_eq!(description.service("Store").unwrap().methods.len(), 3);
        assert_eq!(description.service("Shop"), None);
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "Store on store",
                "  get() [default] [idempotent]",
                "  put()",
                "  clear() [oneway] [broadcast]",
                "Log on store"
            ]
        );
    }

    #[test]
    fn names_from_a_worker_stay_on_their_line() {
        let forged = || "x\nworker 8\u{1b}[2J".to_owned();
        let mut service = ServiceDescription::new(forged(), forged());
        service.methods = vec![MethodDescription::new(forged())];
        let description = WorkerDescription {
            worker: Worker::default(),
            queues: vec![QueueDescription {
                queue: forged(),
                services: vec![service],
            }],
        };
        assert_eq!(description.to_string().lines().count(), 3, "{description}");
        assert!(!description.to_string().contains('\u{1b}'), "{description}");
    }

    #[test]
    fn missing_fields_are_empty_and_unknown_ones_are_skipped() {
        let read: WorkerDescription = serde_json::from_str(
            r#"{"worker": {"id": "7", "mood": [1]}, "queues": [{"queue": "q", "depth": 3}], "x": null}"#,
        )
        .unwrap();
        assert_eq!((read.worker.id.as_str(), read.worker.host.as_str()), ("7", ""));
        assert_eq!(read.queues[0].queue, "q");
    }
}
