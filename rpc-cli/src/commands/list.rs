//! `rpc list`.

use clap::Args;
use rpc_runtime::discovery::{Discovered, WorkerDescription};
use serde_json::{Value, json};

use crate::connection::{close, connect};
use crate::depths::{self, Depths};
use crate::failure::{Failure, Outcome};
use crate::lookup::Search;
use crate::options::Options;
use crate::output::Output;
use crate::table::{Column, Table};
use crate::units;
use crate::worker::{name, short_id};

/// Lists the running services.
///
/// Asks all workers of the virtual host at once. Workers that do not describe themselves, or whose
/// RabbitMQ user lacks the permissions, are not found: see docs/command-line.md. DEPTH is the
/// number of requests that are ready in the queue, and CONSUMERS the number of its consumers; `-`
/// if the broker does not tell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc list
  rpc list --workers
  rpc list --json | jq -r '.services[].name'")]
pub(crate) struct List {
    /// List workers instead of services.
    #[arg(short, long)]
    workers: bool,

    #[command(flatten)]
    search: Search,
}

impl List {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let broker = connect(options).await?;
        let found = self.search.workers(&broker, output).await;
        let depths = match &found {
            Ok(found) if !self.workers || output.json => {
                depths::ask(&broker, found.services().iter().map(|service| service.queue)).await
            }
            _ => Depths::new(),
        };
        close(&broker).await;
        let found = found?;
        if output.json {
            output.value(&json_of(&found, &depths))?;
            return Ok(Outcome::Done);
        }
        if found.workers.is_empty() {
            output.note(
                "no worker answered: is one running, and on this virtual host? `--window` waits longer",
            );
        }
        output.text(&if self.workers {
            workers(&found)
        } else {
            services(&found, &depths)
        })?;
        Ok(Outcome::Done)
    }
}

fn services(found: &Discovered<WorkerDescription>, depths: &Depths) -> String {
    use Column::{Left, Right};
    let mut table = Table::new([
        Left("SERVICE"),
        Left("QUEUE"),
        Right("DEPTH"),
        Right("CONSUMERS"),
        Right("WORKERS"),
        Right("VERSIONS"),
        Right("METHODS"),
    ]);
    for service in found.services() {
        let methods = service
            .descriptions
            .first()
            .map_or(0, |description| description.methods.len());
        let [depth, consumers] = depths::cells(depths, service.queue);
        table.row([
            service.name.to_owned(),
            service.queue.to_owned(),
            depth,
            consumers,
            service.workers.len().to_string(),
            service.descriptions.len().to_string(),
            methods.to_string(),
        ]);
    }
    table.render()
}

fn workers(found: &Discovered<WorkerDescription>) -> String {
    use Column::{Left, Right};
    let mut table = Table::new([
        Left("WORKER"),
        Left("NAME"),
        Left("HOST"),
        Right("PROCESS"),
        Right("UP"),
        Left("VERSION"),
        Left("RPC-RUNTIME"),
        Left("SERVES"),
    ]);
    for WorkerDescription { worker, queues, .. } in &found.workers {
        let served = queues.iter().flat_map(|queue| {
            let queue_name = &queue.queue;
            queue
                .services
                .iter()
                .map(move |service| format!("{} on {queue_name}", service.name))
        });
        table.row([
            short_id(&worker.id).to_owned(),
            name(worker),
            worker.host.clone(),
            worker.pid.to_string(),
            units::show_age(worker.uptime()),
            worker.version.clone().unwrap_or_else(|| "-".to_owned()),
            worker.runtime_version.clone(),
            served.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.render()
}

fn json_of(found: &Discovered<WorkerDescription>, depths: &Depths) -> Value {
    let services = found.services();
    let services = services.iter().map(|service| {
        let methods = service.descriptions.first().map(|description| {
            let names = description.methods.iter().map(|method| method.name.as_str());
            names.collect::<Vec<_>>()
        });
        let mut json = json!({
            "name": service.name,
            "queue": service.queue,
            "workers": service.workers.iter().map(|worker| &worker.id).collect::<Vec<_>>(),
            "versions": service.descriptions.len(),
            "methods": methods.unwrap_or_default(),
        });
        depths::add_to_json(&mut json, depths, service.queue);
        json
    });
    let workers = found
        .workers
        .iter()
        .map(|WorkerDescription { worker, queues, .. }| {
            let queues = queues.iter().map(|queue| queue.queue.as_str());
            json!({"worker": worker, "queues": queues.collect::<Vec<_>>()})
        });
    json!({
        "services": services.collect::<Vec<_>>(),
        "workers": workers.collect::<Vec<_>>(),
        "complete": found.is_complete,
        "refused": found.refusals.len(),
    })
}
