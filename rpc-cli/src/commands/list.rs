//! `rpc list`.

use clap::Args;
use rpc_runtime::discovery::{Discovered, Worker, WorkerDescription};
use serde_json::{Value, json};

use crate::cli::Options;
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::Window;
use crate::output::Output;
use crate::table::{Column, Table};
use crate::units;

/// Lists the services that run on the broker.
///
/// Asks all workers of the virtual host at once. Not found are those that do not describe themselves, or whose RabbitMQ user may not be
/// found; see docs/command-line.md.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc list
  rpc list --workers
  rpc list --json | jq -r '.services[].name'")]
pub(crate) struct List {
    /// List each worker, and not each service.
    #[arg(short, long)]
    workers: bool,

    #[command(flatten)]
    window: Window,
}

impl List {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let broker = connect(options).await?;
        let found = self.window.services(&broker, output).await?;
        close(&broker).await;
        if output.json {
            output.value(&json_of(&found))?;
            return Ok(Outcome::Done);
        }
        if found.workers.is_empty() {
            output.note(
                "no worker answered: is one running, and on this virtual host? `--window` waits longer",
            );
        }
        let table = match self.workers {
            true => workers(&found),
            false => services(&found),
        };
        output.text(&table)?;
        Ok(Outcome::Done)
    }
}

fn services(found: &Discovered<WorkerDescription>) -> String {
    use Column::{Left, Right};
    let mut table = Table::new([
        Left("SERVICE"),
        Left("QUEUE"),
        Right("WORKERS"),
        Right("VERSIONS"),
        Right("METHODS"),
    ]);
    for service in found.services() {
        let methods = service
            .descriptions
            .first()
            .map_or(0, |description| description.methods.len());
        table.row([
            service.name.to_owned(),
            service.queue.to_owned(),
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
            short_id(worker).to_owned(),
            name(worker),
            worker.host.clone(),
            worker.pid.to_string(),
            units::age(worker.uptime()),
            worker.version.clone().unwrap_or_else(|| "-".to_owned()),
            worker.runtime_version.clone(),
            served.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.render()
}

/// As much of a worker's id as tells it from others.
pub(crate) fn short_id(worker: &Worker) -> &str {
    worker.id.get(..8).unwrap_or(&worker.id)
}

/// What people call a worker.
pub(crate) fn name(worker: &Worker) -> String {
    let known = worker.name.as_ref().or(worker.app_id.as_ref());
    known.cloned().unwrap_or_else(|| "-".to_owned())
}

fn json_of(found: &Discovered<WorkerDescription>) -> Value {
    let services = found.services();
    let services = services.iter().map(|service| {
        let methods = service.descriptions.first().map(|description| {
            let names = description.methods.iter().map(|method| method.name.as_str());
            names.collect::<Vec<_>>()
        });
        json!({
            "name": service.name,
            "queue": service.queue,
            "workers": service.workers.iter().map(|worker| &worker.id).collect::<Vec<_>>(),
            "versions": service.descriptions.len(),
            "methods": methods.unwrap_or_default(),
        })
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
