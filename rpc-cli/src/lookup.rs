//! Which service is meant: by its name, among those that are found, or by its queue.

use std::time::Duration;

use clap::Args;
use rpc_contract::ServiceDescription;
use rpc_runtime::discovery::{Discovered, FoundService, WorkerClient, WorkerDescription};
use rpc_runtime::{Broker, CallError, Chain, Fault, FaultCode};

use crate::failure::Failure;
use crate::output::{Output, one_line};
use crate::suggestion::did_you_mean;
use crate::units;

/// How long a worker may take to describe itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How many names an error lists.
const MAX_LISTED: usize = 20;

/// Where a service is looked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Where {
    /// Ask the workers on this queue, in place of looking for the service on the whole broker.
    #[arg(short, long)]
    pub(crate) queue: Option<String>,

    #[command(flatten)]
    pub(crate) window: Window,
}

/// How workers are looked for.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Window {
    /// How long to wait for one more worker to answer, where workers are looked for.
    #[arg(long, default_value = "500ms", value_name = "TIME", value_parser = units::time)]
    pub(crate) window: Duration,
}

impl Window {
    /// Asks all workers what they serve.
    pub(crate) async fn services(
        self,
        broker: &Broker,
        output: &Output,
    ) -> Result<Discovered<WorkerDescription>, Failure> {
        let discover = broker.discover().window(self.window);
        let found = discover.timeout(self.limit()).services().await?;
        tell_what_is_missing(&found, output);
        Ok(found)
    }

    /// How long it may take in all.
    pub(crate) fn limit(self) -> Duration {
        (self.window * 4).max(Duration::from_secs(5))
    }
}

/// Tells why others may be there who are not among those found.
pub(crate) fn tell_what_is_missing<T>(found: &Discovered<T>, output: &Output) {
    if !found.is_complete {
        output.note("more workers answered than are shown here");
    }
    if let Some(fault) = found.refusals.first() {
        let refused = units::count(found.refusals.len(), "worker");
        output.note(&format!("{refused} did not say what they are: {fault}"));
    }
}

/// The service of this name, or, on the given queue, the one that has the method.
pub(crate) async fn service(
    broker: &Broker,
    place: &Where,
    service: Option<&str>,
    method: Option<&str>,
    output: &Output,
) -> Result<ServiceDescription, Failure> {
    match (&place.queue, service) {
        (Some(queue), _) => {
            let described = on_queue(broker, queue).await?;
            Ok(choose_on_queue(queue, described, service, method)?)
        }
        (None, Some(service)) => {
            let found = place.window.services(broker, output).await?;
            let chosen = choose(&found, service)?;
            if chosen.descriptions.len() > 1 {
                output.note(&format!(
                    "the workers on {} run {} versions of {service}, and this is what most of them have: see `rpc describe --versions {service}`",
                    chosen.queue,
                    chosen.descriptions.len(),
                ));
            }
            let described = chosen.descriptions.first();
            described
                .map(|&description| description.clone())
                .ok_or_else(|| not_found(&found, service))
        }
        (None, None) => Err(Failure::usage(
            "a service is missing",
            "name it, or its queue with `--queue`",
        )),
    }
}

/// All that workers say of the service of this name: several where they run different versions, or are on several queues.
pub(crate) async fn versions(
    broker: &Broker,
    window: Window,
    service: &str,
    output: &Output,
) -> Result<Vec<ServiceDescription>, Failure> {
    let found = window.services(broker, output).await?;
    let services = found.service(service);
    let descriptions = services.iter().flat_map(|service| service.descriptions.iter());
    let descriptions: Vec<_> = descriptions.map(|&description| description.clone()).collect();
    match descriptions.is_empty() {
        true => Err(not_found(&found, service)),
        false => Ok(descriptions),
    }
}

/// What a worker on this queue says.
pub(crate) async fn on_queue(broker: &Broker, queue: &str) -> Result<Vec<ServiceDescription>, Failure> {
    let client = WorkerClient::builder(broker, queue).timeout(ANSWER_LIMIT).build();
    let described = client.describe().await;
    let described = described.map_err(|error| cannot_describe(queue, error))?;
    let services = described.queues.into_iter().flat_map(|queue| queue.services);
    Ok(services.collect())
}

fn cannot_describe(queue: &str, error: CallError) -> Failure {
    let not_found = |message: String, hint: &str| Failure::NotFound {
        message,
        hint: hint.to_owned(),
    };
    match error {
        CallError::NoServer { .. } => not_found(
            format!("there is no queue {queue:?} on this virtual host"),
            "no worker was ever started for it: start one, or see what there is with `rpc list`",
        ),
        CallError::TimedOut { limit, .. } => not_found(
            format!("no worker on queue {queue:?} said within {limit:?} what it serves"),
            "the queue is there: its workers are all down, or too busy to answer",
        ),
        CallError::Fault(Fault {
            code: FaultCode::UnknownMethod,
            ..
        }) => not_found(
            format!("the worker on queue {queue:?} does not say what it serves"),
            "its self-description is off, or it is of another kind: `rpc call --undescribed` calls it all the same",
        ),
        CallError::Broker { source, .. } => Failure::Broker(source),
        CallError::BadReply { source, .. } => not_found(
            format!(
                "the worker on queue {queue:?} answers something else than what it serves: {}",
                Chain(&*source)
            ),
            "it is of another kind: `rpc call --undescribed` calls it all the same",
        ),
        CallError::Fault(fault) => Failure::from(CallError::<String>::Fault(fault)),
        other => not_found(
            format!(
                "the workers on queue {queue:?} cannot be asked: {}",
                Chain(&other)
            ),
            "see `rpc ping`",
        ),
    }
}

/// The one service of that name.
fn choose<'a>(found: &'a Discovered<WorkerDescription>, name: &str) -> Result<FoundService<'a>, Failure> {
    let mut services = found.service(name);
    match services.len() {
        0 => Err(not_found(found, name)),
        1 => Ok(services.remove(0)),
        count => {
            let queues = services.iter().map(|service| service.queue);
            Err(Failure::usage(
                format!("{name} is on {count} queues: {}", listed(queues)),
                "choose one of them with `--queue`",
            ))
        }
    }
}

fn not_found(found: &Discovered<WorkerDescription>, name: &str) -> Failure {
    let services = found.services();
    let message = format!("no service {name} was found");
    let hint = match services.is_empty() {
        true => "no worker answered at all: is one running, and on this virtual host? `--window` waits longer, and `--queue` names the queue".to_owned(),
        false => {
            let names = services.iter().map(|service| service.name);
            let meant = did_you_mean(name, names);
            let all = services.iter().map(|service| format!("{} on {}", service.name, service.queue));
            let all = format!("found: {}", listed(all));
            meant.into_iter().chain([all]).collect::<Vec<_>>().join("\n     ")
        }
    };
    Failure::NotFound { message, hint }
}

/// The service among those on a queue: the named one, else the one with the method, else the only one.
fn choose_on_queue(
    queue: &str,
    described: Vec<ServiceDescription>,
    service: Option<&str>,
    method: Option<&str>,
) -> Result<ServiceDescription, Failure> {
    let all = listed(described.iter().map(|service| service.name.clone()));
    let names: Vec<_> = described.iter().map(|service| service.name.clone()).collect();
    let mut described = described.into_iter();
    let chosen = match (service, method) {
        (Some(name), _) => described.find(|service| service.name == name),
        (None, Some(method)) => {
            let all: Vec<_> = described.collect();
            let has_it = all.iter().position(|service| service.method(method).is_some());
            // Where none has it, whoever calls it says so.
            return match (has_it, all.len()) {
                (Some(position), _) => Ok(all.into_iter().nth(position).unwrap_or_default()),
                (None, _) => Err(no_method(&all.iter().collect::<Vec<_>>(), method)),
            };
        }
        (None, None) if names.len() == 1 => described.next(),
        (None, None) => {
            return Err(Failure::usage(
                format!(
                    "queue {queue:?} has {}: {all}",
                    units::count(names.len(), "service")
                ),
                "name one of them before `--queue`",
            ));
        }
    };
    chosen.ok_or_else(|| {
        let name = service.unwrap_or_default();
        let meant = did_you_mean(name, names.iter().map(String::as_str));
        let all = format!("it has: {all}");
        Failure::NotFound {
            message: format!("queue {queue:?} has no service {name}"),
            hint: meant.into_iter().chain([all]).collect::<Vec<_>>().join("\n     "),
        }
    })
}

/// The failure of a call of a method that none of these services has.
pub(crate) fn no_method(services: &[&ServiceDescription], method: &str) -> Failure {
    let names = || {
        services
            .iter()
            .flat_map(|service| &service.methods)
            .map(|method| method.name.as_str())
    };
    let whose = listed(services.iter().map(|service| service.name.as_str()));
    let meant = did_you_mean(method, names());
    let all = match names().next() {
        Some(_) => format!("it has: {}", listed(names())),
        None => "it has none at all".to_owned(),
    };
    Failure::NotFound {
        message: format!("{whose} has no method {method}"),
        hint: meant.into_iter().chain([all]).collect::<Vec<_>>().join("\n     "),
    }
}

/// Names in a row, as many as can be read.
fn listed(names: impl Iterator<Item = impl AsRef<str>>) -> String {
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
        // There is no other way to make one.
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
                "rpc: no service Stroe was found\n     did you mean Store?\n     found: Log on a, Log on b, Store on a".into()
            )
        );
        let nobody = nobody();
        assert!(
            refusal(choose(&nobody, "Store"))
                .1
                .contains("no worker answered at all")
        );
    }

    #[test]
    fn on_a_queue_the_method_tells_the_service() {
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
                "rpc: Store, Log has no method got\n     did you mean get?\n     it has: get".into()
            )
        );
        assert_eq!(refusal(name(None, None)).0, 2);
        assert_eq!(
            refusal(name(Some("Stor"), Some("get"))),
            (
                3,
                "rpc: queue \"q\" has no service Stor\n     did you mean Store?\n     it has: Store, Log"
                    .into()
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
        assert!(listed(names.iter()).ends_with("18, 19, and 5 more"));
        assert_eq!(listed(names[..2].iter()), "0, 1");
    }
}
