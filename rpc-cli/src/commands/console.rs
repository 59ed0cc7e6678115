//! `rpc console`.

mod access;
mod assets;
mod calls;
mod collector;
mod connections;
mod fleet;
mod letters;
mod live;
mod messages;
mod server;
mod trace;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::access::Access;
use self::server::ConsoleState;
use crate::connection::{self, close, connect};
use crate::failure::{Failure, Outcome};
use crate::lookup::Search;
use crate::options::Options;
use crate::output::Output;
use crate::units;

/// How many connections of browsers are served at a time.
const MAX_CONNECTIONS: usize = 128;

/// Shows services, workers and queues on a web page, and calls methods from there.
///
/// Prints the address of the page, and serves it until Ctrl-C. The address has a token: whoever has
/// it can call every method that your RabbitMQ user can. Other machines cannot connect. From one,
/// use a tunnel, such as `ssh -L 7700:127.0.0.1:7700 HOST` with --listen 7700.
///
/// The page shows each method with a form for its arguments, and live charts. It lists dead
/// letters, and retries and drops them. Nothing that is sent or answered is kept or logged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc console
  rpc console --read-only
  rpc console --listen 7700")]
pub(crate) struct Console {
    /// The address and port to listen at, or only the port. Port 0 is any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = parse_listen)]
    listen: SocketAddr,

    /// Allow an address that other machines can reach. Requests and answers are not encrypted.
    #[arg(long)]
    allow_remote: bool,

    /// A name under which browsers may open the page, beside localhost and IP addresses. Repeat it
    /// for several.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// Only show: refuse calls, and retries and drops of dead letters.
    #[arg(long)]
    read_only: bool,

    /// How often to ask the workers while a page is open.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::parse_time)]
    interval: Duration,

    #[command(flatten)]
    search: Search,
}

impl Console {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        let is_remote = !self.listen.ip().is_loopback();
        if is_remote && !self.allow_remote {
            return Err(Failure::usage(
                format!("other machines can reach {}", self.listen.ip()),
                "allow it with `--allow-remote`: nothing is encrypted, and the token in the address is all that keeps others out",
            ));
        }
        let shown_broker = connection::shown_address(options)?;
        let listen_failed = |source| Failure::listen(self.listen, source);
        let listener = TcpListener::bind(self.listen).await.map_err(listen_failed)?;
        let local_address = listener.local_addr().map_err(listen_failed)?;
        let broker = connect(options).await?;

        let access = Access {
            token: Uuid::new_v4().simple().to_string(),
            names: self.hosts.clone(),
            is_remote,
        };
        let address = self.page_address(local_address, &access.token);
        let hello = messages::hello(&shown_broker, self.read_only, self.interval.as_millis());
        let console = ConsoleState::new(access, self.read_only, broker.clone(), options.clone(), hello);
        let console = Arc::new(console);
        let router = server::router(Arc::clone(&console));
        // Before the address is printed: whoever sees it may end the console.
        let asked_to_end = asked_to_end().map_err(Failure::Signals)?;
        if output.json {
            output.value(&json!({"address": address}))?;
        } else {
            output.text(&address)?;
        }
        // Tasks of their own for serving and collecting cannot keep this one from ending, however
        // much work they have.
        let mut serving = tokio::spawn(connections::serve(listener, MAX_CONNECTIONS, router));
        let mut collecting = collect(Arc::clone(&console), self.search, self.interval);
        tokio::select! {
            () = asked_to_end => {}
            // These two end only by a panic.
            Err(panicked) = &mut serving => resume_unwind(panicked.into_panic()),
            Err(panicked) = &mut collecting => resume_unwind(panicked.into_panic()),
        }
        serving.abort();
        collecting.abort();
        // Closing the broker cancels the calls that still run. Each look at dead letters has a
        // connection of its own.
        tokio::join!(console.finish_letters(), close(&broker));
        Ok(Outcome::Done)
    }

    /// Returns the address of the page. The token is behind a `#`, which browsers do not send.
    fn page_address(&self, local_address: SocketAddr, token: &str) -> String {
        let port = local_address.port();
        let host = match (self.hosts.first(), local_address.ip()) {
            (Some(name), _) => format!("{name}:{port}"),
            // The server listens at all addresses, and browsers need one: that of this machine.
            // `localhost` may be that of the other IP version, with another server.
            (None, IpAddr::V4(ip)) if ip.is_unspecified() => format!("127.0.0.1:{port}"),
            (None, IpAddr::V6(ip)) if ip.is_unspecified() => format!("[::1]:{port}"),
            (None, _) => local_address.to_string(),
        };
        format!("http://{host}/#token={token}")
    }
}

/// Collects what the pages show, until the task is aborted.
fn collect(console: Arc<ConsoleState>, search: Search, interval: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (collector, broker) = (&console.collector, &console.broker);
        collector.run(broker, search, interval).await;
    })
}

/// Returns a future that completes at Ctrl-C, and on Unix also at SIGTERM, which service managers
/// send, and at SIGHUP, which a closed terminal sends. Once this returns, these no longer end the
/// process.
fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut hung_up = signal(SignalKind::hangup())?;
        Ok(async move {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
                _ = hung_up.recv() => {}
            }
        })
    }
    #[cfg(windows)]
    {
        let mut interrupted = tokio::signal::windows::ctrl_c()?;
        Ok(async move {
            interrupted.recv().await;
        })
    }
}

/// Parses an address with a port. A port alone is one of 127.0.0.1.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let advice = "write it as 127.0.0.1:7700, [::1]:7700 or 7700";
    text.parse().map_err(|_| advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_at_may_be_a_port() {
        for (text, address) in [
            ("7700", "127.0.0.1:7700"),
            ("0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("0.0.0.0:80", "0.0.0.0:80"),
        ] {
            assert_eq!(parse_listen(text), Ok(address.parse().unwrap()), "{text}");
        }
        for bad in ["", "localhost:80", "127.0.0.1", "65536", ":80"] {
            assert!(parse_listen(bad).is_err(), "{bad}");
        }
    }
}
