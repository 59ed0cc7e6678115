//! Finds the description of a service by its name or by its queue.

use std::time::Duration;

use clap::Args;
use rpc_contract::ServiceDescription;
use rpc_runtime::discovery::{Discovered, FoundService, WorkerClient, WorkerDescription};
use rpc_runtime::{Broker, CallError, Chain, Fault, FaultCode, MethodError};

use crate::failure::Failure;
use crate::output::Output;
use crate::suggestion::did_you_mean;
use crate::text::one_line;
use crate::units;

/// How long to wait for a worker's description.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many names an error lists.
const MAX_LISTED: usize = 5;

/// Where to find a service.
#[derive(Debug, Clone, Args)]
pub(crate) struct Location {
    /// Ask a worker on this queue instead of all workers of the virtual host.
    #[arg(short, long)]
    pub(crate) queue: Option<String>,

    #[command(flatten)]
    pub(crate) search: Search,
}

/// How to search for workers.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Search {
    /// How long to wait for another worker to answer a search.
    #[arg(long, default_value = "500ms", value_name = "TIME", value_parser = units::parse_time)]
    pub(crate) window: Duration,
}

impl Search {
    /// Asks all workers what they serve. Prints notes if some may be missing or refused.
    pub(crate) async fn workers(
        self,
        broker: &Broker,
        output: &Output,
    ) -> Result<Discovered<WorkerDescription>, Failure> {
        let discover = broker.discover().window(self.window);
        let found = discover.timeout(self.limit()).services().await?;
        note_missing(&found, output);
        Ok(found)
    }

    /// Returns the limit on the whole search, in which each answer begins another window.
    pub(crate) fn limit(self) -> Duration {
        (self.window * 4).max(Duration::from_secs(5))
    }
}

/// Prints notes if workers may be missing from those found, or refused to answer.
pub(crate) fn note_missing<T>(found: &Discovered<T>, output: &Output) {
    if !found.is_complete {
        output
            .note("workers may be missing: not all were reached, or not all of their answers could be kept");
    }
    if let Some(fault) = found.refusals.first() {
        let refused = units::count(found.refusals.len(), "worker");
        output.note(&format!("{refused} refused to answer: {fault}"));
    }
}

/// Returns the description of a service: the most common one of the service with this name. With
/// `--queue`, a worker describes those on the queue, and [`choose_on_queue`] chooses one of them.
pub(crate) async fn service(
    broker: &Broker,
    location: &Location,
    name: Option<&str>,
    method: Option<&str>,
    output: &Output,
) -> Result<ServiceDescription, Failure> {
    match (&location.queue, name) {
        (Some(queue), _) => {
            let described = on_queue(broker, queue).await?;
            choose_on_queue(queue, described, name, method)
        }
        (None, Some(name)) => {
            let found = location.search.workers(broker, output).await?;
            let chosen = choose(&found, name)?;
            if chosen.descriptions.len() > 1 {
                output.note(&format!(
                    "the workers on {} run {} versions of {name}, and this is the most common one; `rpc describe --versions {name}` shows all",
                    chosen.queue,
                    chosen.descriptions.len(),
                ));
            }
            descriptions_of(&chosen)
                .next()
                .ok_or_else(|| not_found(&found, name))
        }
        (None, None) => Err(Failure::usage(
            "no service is given",
            "name it, or its queue with `--queue`",
        )),
    }
}

/// Returns all descriptions of the service with this name. There are several if workers run
/// different versions, or if the service is on several queues.
pub(crate) async fn versions(
    broker: &Broker,
    search: Search,
    name: &str,
    output: &Output,
) -> Result<Vec<ServiceDescription>, Failure> {
    let found = search.workers(broker, output).await?;
    all_versions(&found, name)
}

fn all_versions(
    found: &Discovered<WorkerDescription>,
    name: &str,
) -> Result<Vec<ServiceDescription>, Failure> {
    let services = found.service(name);
    let descriptions: Vec<_> = services.iter().flat_map(descriptions_of).collect();
    if descriptions.is_empty() {
        return Err(not_found(found, name));
    }
    Ok(descriptions)
}

/// Returns the descriptions of a service that was found on a queue, the most common one first.
/// Calls go to this queue, whatever queue its descriptions name.
fn descriptions_of<'a>(service: &'a FoundService<'_>) -> impl Iterator<Item = ServiceDescription> + 'a {
    service
        .descriptions
        .iter()
        .map(|&description| with_queue(description.clone(), service.queue))
}

fn with_queue(mut service: ServiceDescription, queue: &str) -> ServiceDescription {
    queue.clone_into(&mut service.queue);
    service
}

/// Returns the descriptions of the services on this queue, as one of its workers tells them.
pub(crate) async fn on_queue(broker: &Broker, queue: &str) -> Result<Vec<ServiceDescription>, Failure> {
    let client = WorkerClient::builder(broker, queue)
        .timeout(DESCRIBE_TIMEOUT)
        .build();
    let described = client.describe().await;
    let described = described.map_err(|error| cannot_describe(queue, error))?;
    Ok(services_on(queue, described))
}

/// Returns the services that a worker described when it was asked through this queue. A worker
/// describes only those on the queue, so calls go there, whatever queue the answer names.
fn services_on(queue: &str, described: WorkerDescription) -> Vec<ServiceDescription> {
    let services = described.queues.into_iter().flat_map(|queue| queue.services);
    services.map(|service| with_queue(service, queue)).collect()
}

/// Returns the failure of asking a worker on this queue for its description.
fn cannot_describe(queue: &str, error: CallError) -> Failure {
    let no_description = |message: String, hint: &str| Failure::NotFound {
        message,
        hint: hint.to_owned(),
    };
    match error {
        CallError::NoServer { .. } => no_description(
            format!("there is no queue {queue:?} on this virtual host"),
            "no worker was started for it: start one, or see the running services with `rpc list`",
        ),
        CallError::TimedOut { limit, .. } => no_description(
            format!("no worker on queue {queue:?} described itself within {limit:?}"),
            "the queue exists: its workers are down or too busy to answer",
        ),
        CallError::Fault(Fault {
            code: FaultCode::UnknownMethod,
            ..
        }) => no_description(
            format!("the worker on queue {queue:?} does not describe itself"),
            "its self-description is off, or it does not use this library: call it with `rpc call --undescribed`",
        ),
        CallError::Broker { source, .. } => Failure::Broker(source),
        CallError::BadReply { source, .. } => no_description(
            format!(
                "the worker on queue {queue:?} answers with something other than a description: {}",
                Chain(&*source)
            ),
            "it does not use this library: call it with `rpc call --undescribed`",
        ),
        CallError::Fault(fault) => Failure::from(CallError::<MethodError<String>>::Fault(fault)),
        other => no_description(
            format!(
                "the workers on queue {queue:?} cannot be asked: {}",
                Chain(&other)
            ),
            "`rpc ping` shows whether they answer",
        ),
    }
}

/// Returns the service with this name. Fails if it is on no queue or on several.
fn choose<'a>(found: &'a Discovered<WorkerDescription>, name: &str) -> Result<FoundService<'a>, Failure> {
    let mut services = found.service(name);
    match services.len() {
        0 => Err(not_found(found, name)),
        1 => Ok(services.remove(0)),
        count => {
            let queues = services.iter().map(|service| service.queue);
            Err(Failure::usage(
                format!("{name} is on {count} queues: {}", list(queues)),
                "choose one of them with `--queue`",
            ))
        }
    }
}

/// Returns the failure of a search for this service, which was not among those found.
fn not_found(found: &Discovered<WorkerDescription>, name: &str) -> Failure {
    let services = found.services();
    let message = format!("no service {name} was found");
    let hint = if services.is_empty() && found.refusals.is_empty() {
        "no worker answered: is one running, and on this virtual host? `--window` waits longer".to_owned()
    } else if services.is_empty() {
        "all workers that answered refused to describe themselves to this user".to_owned()
    } else {
        let suggestion = did_you_mean(name, services.iter().map(|service| service.name));
        let names = services
            .iter()
            .map(|service| format!("{} on {}", service.name, service.queue));
        hint_of(suggestion, "found", names)
    };
    Failure::NotFound { message, hint }
}

/// Chooses a service on a queue by its name; without a name, the first that has the method; without
/// a method, the only one.
fn choose_on_queue(
    queue: &str,
    described: Vec<ServiceDescription>,
    name: Option<&str>,
    method: Option<&str>,
) -> Result<ServiceDescription, Failure> {
    if let Some(name) = name {
        return named_on_queue(queue, described, name);
    }
    if let Some(method) = method {
        let has_method = |service: &&ServiceDescription| service.method(method).is_some();
        let found = described.iter().find(has_method).cloned();
        return found.ok_or_else(|| no_method(&described.iter().collect::<Vec<_>>(), method));
    }
    match described.as_slice() {
        [only] => Ok(only.clone()),
        several => Err(Failure::usage(
            format!(
                "queue {queue:?} has {}: {}",
                units::count(several.len(), "service"),
                list(several.iter().map(|service| &service.name))
            ),
            "name one of them",
        )),
    }
}

/// Chooses a service on a queue by its name.
pub(crate) fn named_on_queue(
    queue: &str,
    described: Vec<ServiceDescription>,
    name: &str,
) -> Result<ServiceDescription, Failure> {
    let found = described.iter().find(|service| service.name == name);
    found.cloned().ok_or_else(|| {
        let names = || described.iter().map(|service| service.name.as_str());
        Failure::NotFound {
            message: format!("queue {queue:?} has no service {name}"),
            hint: hint_of(did_you_mean(name, names()), "it has", names()),
        }
    })
}

/// Returns the failure of a call of a method that none of these services has.
pub(crate) fn no_method(services: &[&ServiceDescription], method: &str) -> Failure {
    let names = || {
        services
            .iter()
            .flat_map(|service| &service.methods)
            .map(|method| method.name.as_str())
    };
    let whose = list(services.iter().map(|service| service.name.as_str()));
    let suggestion = did_you_mean(method, names());
    Failure::NotFound {
        message: match services {
            [_] => format!("{whose} has no method {method}"),
            _ => format!("no method {method} was found; services: {whose}"),
        },
        hint: hint_of(suggestion, "it has", names()),
    }
}

/// Returns the suggestion, or else the first few names after an `intro`.
fn hint_of(suggestion: Option<String>, intro: &str, names: impl Iterator<Item = impl AsRef<str>>) -> String {
    suggestion.unwrap_or_else(|| format!("{intro}: {}", list(names)))
}

/// Returns the first [`MAX_LISTED`] names, separated by commas, and how many more there are; `none`
/// if there are no names.
fn list(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<_> = names.collect();
    let shown = names.iter().take(MAX_LISTED).map(|name| one_line(name.as_ref()));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        1..=MAX_LISTED => shown,
        more => format!("{shown}, and {} more", more - MAX_LISTED),
    }
}

#[cfg(test)]
mod tests {
    use rpc_contract::MethodDescription;
    use serde_json::{from_value, json};

    use super::*;

    fn found(queues: &[(&str, &[&str])]) -> Discovered<WorkerDescription> {
        let of_queue = |(queue, services): &(&str, &[&str])| {
            let services = services.iter().map(|name| json!({"name": name, "queue": queue}));
            json!({"queue": queue, "services": services.collect::<Vec<_>>()})
        };
        let queues: Vec<_> = queues.iter().map(of_queue).collect();
        let worker = from_value(json!({"worker": {"id": "1"}, "queues": queues})).unwrap();
        // The type has no constructor.
        let mut found = nobody();
        found.workers = vec![worker];
        found
    }

    fn nobody() -> Discovered<WorkerDescription> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async { Broker::in_process().discover().services().await.unwrap() })
    }

    #[test]
    fn a_worker_cannot_send_calls_to_another_queue() {
        let described = from_value(json!({
            "worker": {"id": "1"},
            "queues": [{"queue": "other", "services": [{"name": "Store", "queue": "other"}]}],
        }));
        let services = services_on("mine", described.unwrap());
        assert_eq!((services.len(), services[0].queue.as_str()), (1, "mine"));
        let mut found = nobody();
        found.workers = vec![
            from_value(json!({
                "worker": {"id": "1"},
                "queues": [{"queue": "mine", "services": [{"name": "Store", "queue": "other"}]}],
            }))
            .unwrap(),
        ];
        let versions = all_versions(&found, "Store").unwrap();
        assert_eq!((versions.len(), versions[0].queue.as_str()), (1, "mine"));
    }

    fn refusal<T: std::fmt::Debug>(chosen: Result<T, Failure>) -> (u8, String) {
        let failure = chosen.unwrap_err();
        (failure.outcome() as u8, failure.text())
    }

    #[test]
    fn a_service_is_chosen_by_its_name() {
        let found = found(&[("a", &["Store", "Log"]), ("b", &["Log"])]);
        assert_eq!(choose(&found, "Store").unwrap().queue, "a");
        assert_eq!(
            refusal(choose(&found, "Log")),
            (
                2,
                "rpc: Log is on 2 queues: a, b\n     choose one of them with `--queue`".into()
            )
        );
        assert_eq!(
            refusal(choose(&found, "Stroe")),
            (
                3,
                "rpc: no service Stroe was found\n     did you mean Store?".into()
            )
        );
        let nobody = nobody();
        assert!(refusal(choose(&nobody, "Store")).1.contains("no worker answered"));
    }

    #[test]
    fn a_service_is_chosen_by_its_queue_and_method() {
        let mut store = ServiceDescription::new("Store", "q");
        store.methods = vec![MethodDescription::new("get")];
        let log = ServiceDescription::new("Log", "q");
        let both = || vec![store.clone(), log.clone()];
        let name = |service, method| choose_on_queue("q", both(), service, method).map(|chosen| chosen.name);
        assert_eq!(name(Some("Log"), None).unwrap(), "Log");
        assert_eq!(name(None, Some("get")).unwrap(), "Store");
        assert_eq!(
            refusal(name(None, Some("got"))),
            (
                3,
                "rpc: no method got was found; services: Store, Log\n     did you mean get?".into()
            )
        );
        assert_eq!(refusal(name(None, None)).0, 2);
        assert_eq!(
            refusal(name(Some("Stor"), Some("get"))),
            (
                3,
                "rpc: queue \"q\" has no service Stor\n     did you mean Store?".into()
            )
        );
        assert_eq!(
            choose_on_queue("q", vec![log.clone()], None, None).unwrap().name,
            "Log"
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<_> = (0..25).map(|number| number.to_string()).collect();
        assert_eq!(list(names.iter()), "0, 1, 2, 3, 4, and 20 more");
        assert_eq!(list(names[..2].iter()), "0, 1");
    }

    #[test]
    fn without_a_suggestion_a_few_names_are_listed() {
        let queues: Vec<_> = (0..30).map(|number| format!("queue-{number}")).collect();
        let queues: Vec<_> = queues
            .iter()
            .map(|queue| (queue.as_str(), &["Log"][..]))
            .collect();
        let (_, text) = refusal(choose(&found(&queues), "Payments"));
        assert!(
            text.contains("found: Log on queue-0") && text.ends_with("and 25 more"),
            "{text}"
        );
    }
}
