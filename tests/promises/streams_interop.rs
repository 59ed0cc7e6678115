//! Streams between this library and the worker and the caller in Python of the examples, which have
//! only the protocol in common with it.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use rpc_runtime::{Broker, CallError, Codec, FaultCode, Incoming, Server, StreamingCall, service};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::programs::{example, printed};
use rpc_tests::rabbit::Vhost;
use rpc_tests::{python, until};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reading {
    number: u64,
    celsius: f64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum SensorError {
    Broken { sensor: String },
    Wrong(String),
}

#[service(queue = "sensors")]
trait Sensors {
    fn readings(&self, sensor: &str, count: Option<u64>) -> impl Stream<Item = Result<Reading, SensorError>>;
    async fn store(&self, sensor: &str, readings: Incoming<Reading>) -> Result<u64, SensorError>;
    fn unknown(&self) -> impl Stream<Item = Result<Reading, SensorError>>;
}

/// A script's role, and what it prints.
struct Python {
    process: Child,
    printed: Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn command(role: &str, queue: &str, vhost: &Vhost) -> Command {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let mut command = Command::new(python::interpreter().unwrap());
        command
            .arg(examples.join("streams_from_python.py"))
            .args([role, queue])
            .env("AMQP_URL", vhost.url())
            .env("PYTHONUNBUFFERED", "1")
            .kill_on_drop(true);
        command
    }

    fn worker(queue: &str, vhost: &Vhost) -> Self {
        let mut command = Self::command("worker", queue, vhost);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let printed = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, printed }
    }

    /// Waits until a stream of this sensor ends, and returns how many readings the method made.
    async fn made(&mut self, sensor: &str) -> u64 {
        let line = soon("a method ends", self.printed.next_line()).await;
        let line = line.unwrap().expect("the worker runs");
        let made = line.strip_prefix("made ").and_then(|line| {
            let (made, of) = line.split_once(" readings of ")?;
            (of == sensor).then(|| made.parse().ok())?
        });
        made.unwrap_or_else(|| panic!("{line}"))
    }
}

fn client(broker: &Broker, queue: &str) -> SensorsClient {
    let client = SensorsClient::builder(broker).queue(queue).codec(Codec::Json);
    client.timeout(SOON).wait_for_server(true).build()
}

async fn next(
    stream: &mut StreamingCall<Reading, SensorError>,
) -> Option<Result<Reading, CallError<SensorError>>> {
    soon("it goes on", stream.next()).await
}

/// Reads numbered readings, and returns the error that ends them, if there is one.
async fn read_all(
    stream: &mut StreamingCall<Reading, SensorError>,
    from: u64,
) -> (u64, Option<CallError<SensorError>>) {
    let mut read = 0;
    while let Some(item) = next(stream).await {
        match item {
            Ok(reading) => {
                assert_eq!(reading.number, from + read);
                read += 1;
            }
            Err(error) => return (read, Some(error)),
        }
    }
    (read, None)
}

fn is_fault(error: Option<&CallError<SensorError>>, code: &FaultCode) -> bool {
    matches!(error, Some(CallError::Fault(fault)) if fault.code == *code)
}

#[tokio::test]
async fn the_example_streams_between_rust_and_python() {
    let vhost = Vhost::new().await;
    let mut program = example("streams_from_python").await;
    program
        .env("AMQP_URL", vhost.url())
        .env("PYTHON", python::interpreter().unwrap());
    assert_eq!(
        printed(&mut program).await,
        "a worker in Rust, and a caller in Python:\n\
         reading: {'number': 1, 'celsius': 20.5}\n\
         reading: {'number': 2, 'celsius': 21.0}\n\
         reading: {'number': 3, 'celsius': 21.5}\n\
         sum: 4525.0\n\
         first: {'number': 1, 'celsius': 20.5}\n\
         reading: {'number': 1, 'celsius': 20.5}\n\
         reading: {'number': 2, 'celsius': 21.0}\n\
         error: {'Broken': {'sensor': 'cellar'}}\n\
         stored: 5000\n\
         error: {'Full': {'limit': 2}}\n\
         a worker in Python, and a caller in Rust:\n\
         reading: Reading { number: 1, celsius: 20.5 }\n\
         reading: Reading { number: 2, celsius: 21.0 }\n\
         reading: Reading { number: 3, celsius: 21.5 }\n\
         python: made 3 readings of roof\n\
         read 100, and the worker made fewer than 110: true\n\
         reading: Reading { number: 1, celsius: 20.5 }\n\
         reading: Reading { number: 2, celsius: 21.0 }\n\
         error: the sensor in the cellar is broken\n"
    );
}

#[tokio::test]
async fn a_worker_in_python_streams_at_the_pace_of_its_readers() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let mut worker = Python::worker("python", &vhost);
    let sensors = client(&broker, "python");

    let mut endless = sensors.readings("endless", None).credit(4);
    assert_eq!(next(&mut endless).await.unwrap().unwrap().number, 1);
    // Little credit is granted again and again, and much fills large messages.
    for (count, credit) in [(100, 4), (20_000, 1 << 20)] {
        let mut all = sensors.readings("finite", Some(count)).credit(credit);
        let (read, error) = read_all(&mut all, 1).await;
        assert!(read == count && error.is_none(), "{read}: {error:?}");
        assert_eq!(worker.made("finite").await, count);
    }
    // Meanwhile, the endless method has made what it had credit for, and one reading more.
    drop(endless);
    let made = worker.made("endless").await;
    assert!(made <= 5, "{made}");

    // Credit for bytes is credit too: each reading counts more than 8 bytes.
    let mut few_bytes = sensors.readings("bytes", None).credit_bytes(1);
    for number in 1..=10 {
        assert_eq!(next(&mut few_bytes).await.unwrap().unwrap().number, number);
    }
    drop(few_bytes);
    let made = worker.made("bytes").await;
    assert!(made <= 12, "{made}");
}

#[tokio::test]
async fn a_worker_in_python_tells_its_callers_why_a_stream_ends() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let mut worker = Python::worker("python", &vhost);
    let sensors = client(&broker, "python");

    let (read, error) = read_all(&mut sensors.readings("cellar", None), 1).await;
    let sensor = "cellar".to_owned();
    let is_broken =
        matches!(&error, Some(CallError::Service(error)) if *error == SensorError::Broken { sensor });
    assert!(read == 2 && is_broken, "{read}: {error:?}");
    worker.made("cellar").await;

    let (read, error) = read_all(&mut sensors.unknown(), 1).await;
    assert!(
        read == 0 && is_fault(error.as_ref(), &FaultCode::UnknownMethod),
        "{error:?}"
    );

    let mut endless = sensors.readings("endless", None).credit(1);
    next(&mut endless).await.unwrap().unwrap();
    let id = worker.process.id().expect("it runs");
    let mut kill = Command::new("/bin/sh");
    printed(kill.args(["-c", &format!("kill -TERM {id}")])).await;
    let (_, error) = read_all(&mut endless, 2).await;
    assert!(is_fault(error.as_ref(), &FaultCode::Interrupted), "{error:?}");
    let ended = soon("it ends", worker.process.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn a_dead_worker_in_python_is_noticed_and_an_idle_one_is_not_taken_for_dead() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let _idle_worker = Python::worker("idle", &vhost);
    let mut dying_worker = Python::worker("dying", &vhost);

    let mut idle = client(&broker, "idle").readings("idle", None).credit(1);
    next(&mut idle).await.unwrap().unwrap();
    let mut dying = client(&broker, "dying").readings("dying", None).credit(1);
    next(&mut dying).await.unwrap().unwrap();
    dying_worker.process.kill().await.unwrap();
    // After as much silence, the idle worker is still there.
    let (_, error) = read_all(&mut dying, 2).await;
    assert!(is_fault(error.as_ref(), &FaultCode::Interrupted), "{error:?}");
    for number in 2..=10 {
        assert_eq!(next(&mut idle).await.unwrap().unwrap().number, number);
    }
}

/// Records how many readings each of its streams has made when it ends.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<(String, u64)>>>);

struct Stopped {
    recorder: Recorder,
    sensor: String,
    made: u64,
}

impl Stopped {
    fn makes(&mut self, number: u64) {
        self.made = number;
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let sensor = std::mem::take(&mut self.sensor);
        self.recorder.0.lock().unwrap().push((sensor, self.made));
    }
}

impl Recorder {
    fn stopped(&self, sensor: &str, count: Option<u64>) -> Stopped {
        Stopped {
            recorder: self.clone(),
            sensor: format!("{sensor} {count:?}"),
            made: 0,
        }
    }
}

impl Sensors for Recorder {
    fn readings(&self, sensor: &str, count: Option<u64>) -> impl Stream<Item = Result<Reading, SensorError>> {
        let mut stopped = self.stopped(sensor, count);
        let numbers = stream::iter(1..=count.unwrap_or(u64::MAX));
        numbers.map(move |number| {
            stopped.makes(number);
            match (sensor, number) {
                ("cellar", 3..) => Err(SensorError::Broken {
                    sensor: sensor.to_owned(),
                }),
                _ => Ok(Reading { number, celsius: 1.5 }),
            }
        })
    }

    async fn store(&self, sensor: &str, mut readings: Incoming<Reading>) -> Result<u64, SensorError> {
        let mut stopped = self.stopped(sensor, Some(0));
        while let Some(reading) = readings.next().await {
            let reading = reading.map_err(|error| SensorError::Wrong(error.to_string()))?;
            stopped.made += 1;
            if reading.number != stopped.made {
                return Err(SensorError::Wrong(format!("{reading:?} after {}", stopped.made)));
            }
            if sensor == "cellar" && stopped.made == 2 {
                return Err(SensorError::Wrong("full".into()));
            }
        }
        Ok(stopped.made)
    }

    fn unknown(&self) -> impl Stream<Item = Result<Reading, SensorError>> {
        stream::empty()
    }
}

#[tokio::test]
async fn a_caller_in_python_sets_the_pace_and_ends_the_methods_of_a_worker() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let recorder = Recorder::default();
    let server = Server::new(&broker).serve(SensorsServer::new(recorder.clone()));
    let server = soon("it starts", server.start()).await.unwrap();

    let output = printed(&mut Python::command("caller", "sensors", &vhost)).await;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(
        &lines[3..],
        [
            "sum: 150.0",
            "first: {'number': 1, 'celsius': 1.5}",
            "reading: {'number': 1, 'celsius': 1.5}",
            "reading: {'number': 2, 'celsius': 1.5}",
            "error: {'Broken': {'sensor': 'cellar'}}",
            "stored: 5000",
            "error: {'Wrong': 'full'}",
        ]
    );
    let ended = async || Ok(recorder.0.lock().unwrap().len() == 6);
    until("all methods end", SOON, ended).await.unwrap();
    let mut ended = recorder.0.lock().unwrap().clone();
    ended.sort();
    let made = |wanted: &str| ended.iter().find(|(sensor, _)| sensor == wanted).unwrap().1;
    assert_eq!(made("roof Some(3)"), 3);
    assert_eq!(made("roof Some(100)"), 100);
    assert_eq!(made("roof Some(0)"), 5000);
    assert_eq!(made("cellar Some(0)"), 2);
    assert_eq!(made("cellar None"), 3);
    // Four that were granted, and one that the worker holds.
    assert!(made("roof None") <= 5, "{ended:?}");
    server.stop().await.unwrap();
}
