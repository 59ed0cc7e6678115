//! Streams between programs in Rust and in Python, in JSON. This program serves a caller in Python,
//! and then calls a worker in Python: both are [`streams_from_python.py`](streams_from_python.py),
//! which needs only `pika` and `msgpack`.
//!
//! ```sh
//! pip install pika msgpack
//! AMQP_URL=amqp://localhost cargo run --example streams_from_python
//! ```
//!
//! `PYTHON` names the interpreter, by default `python3`. `docs/protocol.md` describes the protocol.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use futures_util::{Stream, StreamExt, stream};
use rpc_examples::log_to_stderr;
use rpc_runtime::{Broker, CallError, Codec, Incoming, Server, service};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

const PYTHON_QUEUE: &str = "example.sensors.python";

#[derive(Debug, Serialize, Deserialize)]
struct Reading {
    number: u64,
    celsius: f64,
}

/// For example `{"Broken": {"sensor": ".."}}` in JSON.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum SensorError {
    #[error("the sensor in the {sensor} is broken")]
    Broken { sensor: String },
    #[error("there is no room for more than {limit} readings")]
    Full { limit: u64 },
    #[error("the readings break off: {reason}")]
    Incomplete { reason: String },
}

#[service(queue = "example.sensors")]
trait Sensors {
    /// The readings of a sensor. Without a count, they have no end. The one in the cellar breaks
    /// after two.
    fn readings(&self, sensor: &str, count: Option<u64>) -> impl Stream<Item = Result<Reading, SensorError>>;

    /// Stores readings, and returns how many. Only the worker in Rust has this method.
    async fn store(&self, sensor: &str, readings: Incoming<Reading>) -> Result<u64, SensorError>;
}

struct House;

impl Sensors for House {
    fn readings(&self, sensor: &str, count: Option<u64>) -> impl Stream<Item = Result<Reading, SensorError>> {
        stream::iter(1..=count.unwrap_or(u64::MAX)).map(move |number| match (sensor, number) {
            ("cellar", 3..) => Err(SensorError::Broken {
                sensor: sensor.to_owned(),
            }),
            _ => Ok(Reading {
                number,
                celsius: 20.0 + number as f64 / 2.0,
            }),
        })
    }

    async fn store(&self, sensor: &str, mut readings: Incoming<Reading>) -> Result<u64, SensorError> {
        let limit = if sensor == "cellar" { 2 } else { 100_000 };
        let mut stored = 0;
        while let Some(reading) = readings.next().await {
            reading.map_err(|error| SensorError::Incomplete {
                reason: error.to_string(),
            })?;
            stored += 1;
            if stored == limit {
                // The caller sends no more.
                return Err(SensorError::Full { limit });
            }
        }
        Ok(stored)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let broker = Broker::connect(&url).await?;
    println!("a worker in Rust, and a caller in Python:");
    serve_python(&broker, &url).await?;
    println!("a worker in Python, and a caller in Rust:");
    call_python(&broker, &url).await?;
    broker.close().await;
    Ok(())
}

/// Serves the script, which is the caller, until it ends.
async fn serve_python(broker: &Broker, url: &str) -> anyhow::Result<()> {
    let server = Server::new(broker)
        .serve(SensorsServer::new(House))
        .start()
        .await?;
    let ended = python("caller", "example.sensors", url).status().await;
    let ended = ended.context("cannot run Python: set PYTHON to an interpreter")?;
    ensure!(
        ended.success(),
        "the script failed: does the interpreter have the packages pika and msgpack?"
    );
    server.stop().await?;
    Ok(())
}

/// Runs the script as a worker, calls it, and kills it.
async fn call_python(broker: &Broker, url: &str) -> anyhow::Result<()> {
    let mut worker = python("worker", PYTHON_QUEUE, url)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut printed = BufReader::new(worker.stdout.take().context("it is piped")?).lines();
    let sensors = SensorsClient::builder(broker)
        .queue(PYTHON_QUEUE)
        .codec(Codec::Json)
        .wait_for_server(true)
        .build();

    let mut readings = sensors.readings("roof", Some(3));
    while let Some(reading) = readings.next().await {
        println!("reading: {:?}", reading?);
    }
    println!("python: {}", printed.next_line().await?.unwrap_or_default());

    // With little credit, the worker waits for its reader.
    let mut endless = sensors.readings("roof", None).credit(4);
    for _ in 0..100 {
        endless.next().await.context("it has no end")??;
    }
    // Ends the method.
    drop(endless);
    let made = printed.next_line().await?.unwrap_or_default();
    let made = made.split(' ').find_map(|word| word.parse::<u64>().ok());
    println!(
        "read 100, and the worker made fewer than 110: {}",
        made.is_some_and(|made| made < 110)
    );

    let mut readings = sensors.readings("cellar", None);
    while let Some(reading) = readings.next().await {
        match reading {
            Ok(reading) => println!("reading: {reading:?}"),
            Err(CallError::Service(error)) => println!("error: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    worker.kill().await?;
    Ok(())
}

/// Returns a command that runs the script in a role: `worker` or `caller`.
fn python(role: &str, queue: &str, url: &str) -> Command {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("streams_from_python.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .args([role, queue])
        .env("AMQP_URL", url)
        .kill_on_drop(true);
    command
}
