//! Metrics for Prometheus: a worker and a caller that serve their metrics over HTTP.
//! [`grafana_dashboard.json`](grafana_dashboard.json) is a Grafana dashboard for them.
//!
//! ```sh
//! cargo run --example prometheus                                   # makes calls, prints its metrics, ends
//! cargo run --example prometheus -- 127.0.0.1:9187                 # keeps calling
//! AMQP_URL=amqp://localhost cargo run --example prometheus -- 127.0.0.1:9187
//! ```
//!
//! It needs rpc-runtime's feature `metrics` and a recorder of the `metrics` facade.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{Broker, Server, describe_metrics, service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[service(queue = "example.dice")]
trait Dice {
    /// Rolls a die. Fails if it has no sides.
    async fn roll(&self, sides: u32) -> Result<u32, String>;
}

/// The buckets of histograms of durations.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The buckets of histograms of calls or requests in one message.
const CALLS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

struct Cup;

impl Dice for Cup {
    async fn roll(&self, sides: u32) -> Result<u32, String> {
        match sides {
            0 => Err("a die has sides".into()),
            // Not random, because the example does not need chance.
            sides => Ok(4.min(sides)),
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let scraped = std::env::args().nth(1);
    let address = match &scraped {
        Some(address) => address
            .parse()
            .context("an address to serve metrics at, such as 127.0.0.1:9187")?,
        None => free_address().await?,
    };

    // Before the first connection, so that it is counted.
    PrometheusBuilder::new()
        // Buckets can be added up over several processes. Quantiles, the default, cannot.
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_per_message".into()), CALLS)?
        .with_http_listener(address)
        .install()?;
    describe_metrics();

    let broker = broker().await?;
    let server = Server::new(&broker).serve(DiceServer::new(Cup)).start().await?;
    match scraped {
        Some(_) => {
            println!("metrics are at http://{address}/metrics");
            roll_until_ctrl_c(&broker).await;
        }
        None => {
            let dice = DiceClient::new(&broker);
            for sides in [6, 6, 20, 0] {
                let _ = dice.roll(sides).await;
            }
            let metrics = fetch(address).await?;
            let mut lines: Vec<_> = metrics.lines().filter(|line| line.starts_with("rpc_")).collect();
            // Durations differ from run to run. Buckets are too many to print.
            lines.retain(|line| !line.contains("_bucket") && !line.contains("_seconds_sum"));
            lines.sort_unstable();
            println!("{}", lines.join("\n"));
        }
    }
    server.stop().await?;
    broker.close().await;
    Ok(())
}

async fn roll_until_ctrl_c(broker: &Broker) {
    let dice = DiceClient::new(broker);
    let rolling = async {
        for sides in (0..=20).cycle() {
            let _ = dice.roll(sides).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = rolling => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").await?.local_addr()
}

/// Fetches the metrics, as Prometheus does. Returns the whole HTTP response.
async fn fetch(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
