//! `rpc list`.

use clap::Args;
use rpc_runtime::Broker;
use rpc_runtime::discovery::{Discovered, WorkerDescription};
use serde_json::{Value, json};

use crate::connection::{close, connect};
use crate::depths::{self, Depths, JobDepths};
use crate::failure::{Failure, Outcome};
use crate::lookup::Search;
use crate::method_text::has_jobs;
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
/// if the broker does not tell. For services with jobs, WAITING is the number of jobs that wait for
/// a retry or for the time that their caller set, and DEAD that of those that were given up.
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
        // JSON has services and workers in any case.
        let shows_services = !self.workers || output.json;
        let depths = match &found {
            Ok(found) if shows_services => ask_depths(&broker, found).await,
            _ => Depths::new(),
        };
        close(&broker).await;
        let found = found?;
        if output.json {
            output.value(&json_of(&found, &depths))?;
            return Ok(Outcome::Done);
        }
        if found.workers.is_empty() && found.refusals.is_empty() {
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

/// Asks for the depths of the services' queues, and of those that their jobs move to.
async fn ask_depths(broker: &Broker, found: &Discovered<WorkerDescription>) -> Depths {
    let services = found.services();
    let with_jobs = services.iter().filter(|service| has_jobs(service));
    let job_queues = with_jobs.flat_map(|service| depths::job_queues(service.queue));
    let job_queues: Vec<_> = job_queues.collect();
    let queues = services.iter().map(|service| service.queue);
    depths::ask(broker, queues.chain(job_queues.iter().map(String::as_str))).await
}

/// Returns the tables of services, and of those with jobs.
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
    let jobs = jobs(found, depths);
    if jobs.is_empty() {
        table.render()
    } else {
        format!("{}\n\n{}", table.render(), jobs.render())
    }
}

/// Returns the table of services with jobs: how many jobs wait in the retry queues, and how many
/// are in the dead-letter queue. Services on the same queue share these numbers.
fn jobs(found: &Discovered<WorkerDescription>, depths: &Depths) -> Table<4> {
    use Column::{Left, Right};
    let mut table = Table::new([Left("JOBS OF"), Left("QUEUE"), Right("WAITING"), Right("DEAD")]);
    for service in found.services().iter().filter(|service| has_jobs(service)) {
        let [waiting, dead] = JobDepths::of(depths, service.queue).cells();
        table.row([service.name.to_owned(), service.queue.to_owned(), waiting, dead]);
    }
    table
}

/// Returns the table of workers.
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

/// Returns services and workers as JSON. `methods` are those of the service's most common
/// description, `versions` is the number of its distinct descriptions, and `refused` is how many
/// workers refused to answer, of which discovery keeps at most a hundred.
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
        if has_jobs(service) {
            let jobs = JobDepths::of(depths, service.queue);
            json["jobs"] = json!({"waiting": jobs.waiting, "dead": jobs.dead});
        }
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
