//! One node.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use lapin::{Connection, ConnectionProperties};
use tokio::{net::TcpStream, process::Command, task::spawn_blocking, time::timeout};
use uuid::Uuid;

use super::{
    files::{self, Extras, Tls},
    ports::free_ports,
};
use crate::{
    certificates::{Authority, Identity},
    until,
};

/// How long a node may take until it serves clients; some ten seconds are usual, and a busy machine takes longer.
const START_LIMIT: Duration = Duration::from_secs(180);

/// How long a killed node may take until nothing of it runs.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// How long one `rabbitmqctl` may take.
const CTL_LIMIT: Duration = Duration::from_secs(60);

/// How many lines of a node's log an error shows.
const LOG_TAIL: usize = 80;

/// The file that the watchdog leaves when the server has exited.
const EXITED: &str = "exited";

/// What nodes have in common that can reach each other.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) cookie: String,
    /// The port mapper that tells their names' ports; the first node to need it starts it.
    pub(super) epmd_port: u16,
}

impl Peers {
    /// No others: a name and a port mapper of its own.
    fn none() -> anyhow::Result<Self> {
        let [epmd_port] = free_ports()?;
        let cookie = Uuid::new_v4().simple().to_string();
        Ok(Self { cookie, epmd_port })
    }
}

/// What a user may do: regular expressions over the names of queues and exchanges.
#[derive(Debug, Clone, Copy)]
pub struct Permissions<'a> {
    /// What it may declare and delete.
    pub configure: &'a str,
    /// What it may publish to, or bind.
    pub write: &'a str,
    /// What it may consume, or bind to.
    pub read: &'a str,
}

impl Permissions<'_> {
    /// All that there is.
    pub const ALL: Self = Self {
        configure: ".*",
        write: ".*",
        read: ".*",
    };
}

/// A running RabbitMQ node of our own.
///
/// Dropping it ends it and removes its folder. It is not tied to the runtime that started it.
#[derive(Debug)]
pub struct Node {
    url: String,
    tls_port: Option<u16>,
    name: String,
    rabbitmqctl: PathBuf,
    environment: BTreeMap<&'static str, OsString>,
    pub(super) folder: PathBuf,
    watchdog: Child,
}

impl Node {
    /// Starts a node and waits until it serves clients.
    ///
    /// # Errors
    ///
    /// Where RabbitMQ is not installed, and where the node does not start: with the tail of its log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    /// Starts a node with these lines at the end of its `rabbitmq.conf`.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn start_with(configuration: &str) -> anyhow::Result<Self> {
        let extras = Extras {
            configuration,
            tls: None,
        };
        Self::start_among(&Peers::none()?, &extras).await
    }

    /// Starts a node that also serves TLS, at [`tls_url`](Self::tls_url), with this certificate, and with these lines at the end of its `rabbitmq.conf`.
    /// It verifies the certificates of clients that have one, against the same authority, and lets them log in by it, as the user of their
    /// common name.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn start_with_tls(
        authority: &Authority,
        identity: &Identity,
        configuration: &str,
    ) -> anyhow::Result<Self> {
        let [port] = free_ports()?;
        let tls = Some(Tls {
            port,
            authority,
            identity,
        });
        let extras = Extras { configuration, tls };
        Self::start_among(&Peers::none()?, &extras).await
    }

    /// Starts a node that can reach these peers.
    pub(super) async fn start_among(peers: &Peers, extras: &Extras<'_>) -> anyhow::Result<Self> {
        let server = files::find_server()?;
        let [amqp_port, distribution_port] = free_ports()?;
        let name = format!("rpc-test-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?;
        let name = format!("{name}@localhost");
        let environment = files::environment(&name, folder.path(), distribution_port, peers.epmd_port);
        files::write(folder.path(), &peers.cookie, amqp_port, extras)?;

        let log = fs::File::create(folder.path().join("log"))?;
        let watchdog = std::process::Command::new("/bin/sh")
            .arg(folder.path().join("watchdog.sh"))
            .arg(&server)
            .env_clear()
            .envs(&environment)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Out of the terminal's reach: Ctrl-C is for the tests, the watchdog then ends in its own way.
            .process_group(0)
            .spawn()
            .context("the watchdog does not start")?;

        // From here on the watchdog removes the folder.
        let node = Self {
            url: format!("amqp://guest:guest@127.0.0.1:{amqp_port}/%2f"),
            tls_port: extras.tls.as_ref().map(|tls| tls.port),
            name,
            rabbitmqctl: server.with_file_name("rabbitmqctl"),
            environment,
            folder: folder.keep(),
            watchdog,
        };
        node.serves_clients().await?;
        // It serves clients a moment before it has started. Until then RabbitMQ 4 drops what is sent to
        // direct reply-to addresses, and `rabbitmqctl` refuses some of its commands.
        node.ctl(&["await_startup"]).await?;
        Ok(node)
    }

    /// Its name among Erlang nodes, as in `rabbitmqctl -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL under which clients reach the node, as user guest.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL under which clients reach it over TLS at this host, which is a name of this machine, as these users: `user:password`.
    ///
    /// # Panics
    ///
    /// Where it was not [started with TLS](Self::start_with_tls).
    pub fn tls_url(&self, credentials: &str, host: &str) -> String {
        let port = self.tls_port.expect("a node that was started with TLS");
        format!("amqps://{credentials}@{host}:{port}/%2f")
    }

    /// Makes a user who may do this, as regular expressions over names, in the virtual host `/`.
    ///
    /// # Errors
    ///
    /// Where `rabbitmqctl` fails.
    pub async fn add_user(&self, name: &str, password: &str, may: Permissions<'_>) -> anyhow::Result<()> {
        self.ctl(&["add_user", name, password]).await?;
        self.permit(name, may).await
    }

    /// Gives a user these permissions in the virtual host `/`, in place of those that it had.
    ///
    /// # Errors
    ///
    /// Where `rabbitmqctl` fails.
    pub async fn permit(&self, user: &str, may: Permissions<'_>) -> anyhow::Result<()> {
        let Permissions {
            configure,
            write,
            read,
        } = may;
        self.ctl(&["set_permissions", user, configure, write, read])
            .await?;
        Ok(())
    }

    /// The major and the minor version of RabbitMQ, such as `(4, 3)`.
    ///
    /// # Errors
    ///
    /// Where `rabbitmqctl` fails.
    pub async fn version(&self) -> anyhow::Result<(u16, u16)> {
        let text = self.ctl(&["version"]).await?;
        let mut numbers = text.trim().split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => bail!("no version: {text:?}"),
        }
    }

    /// The process id of its Erlang machine, which is another one after a [`restart`](Self::restart).
    ///
    /// # Errors
    ///
    /// Where the node has not written it down.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let file = self.folder.join("pid");
        let pid = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        pid.trim()
            .parse()
            .with_context(|| format!("{} holds no process id", file.display()))
    }

    /// Runs `rabbitmqctl` against this node and returns what it prints.
    ///
    /// `["close_all_connections", "why"]` cuts every client off; `["stop_app"]` and `["start_app"]` are an outage on
    /// the same port, which only durable queues survive.
    ///
    /// # Errors
    ///
    /// Where the command fails or takes longer than a minute.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let what = || format!("rabbitmqctl {}", arguments.join(" "));
        let mut command = Command::new(&self.rabbitmqctl);
        command.arg("--quiet").args(arguments);
        command
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // The mark by which the watchdog finds what belongs to the node.
        command.env("RPC_TESTS_NODE", &self.folder);

        let output = timeout(CTL_LIMIT, command.output())
            .await
            .with_context(|| format!("{} took longer than {CTL_LIMIT:?}", what()))?
            .with_context(|| format!("{} does not start", what()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{} failed: {}\n{stdout}{}",
            what(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(stdout)
    }

    /// Has the node write to its folder what it knows of virtual hosts, users, exchanges and queues, and returns when
    /// they are safe from a [kill](Self::kill).
    ///
    /// RabbitMQ 3.10 may say that a durable queue is declared before it is: on a busy machine, one in ten was lost.
    /// RabbitMQ 4.3 has no Mnesia. Its database, Khepri, has written a queue before it says so.
    pub async fn flush(&self) -> anyhow::Result<()> {
        const DUMP: &str = "case lists:keymember(mnesia, 1, application:which_applications()) of
            true -> [mnesia:dump_log(), mnesia:sync_log()];
            false -> [dumped, ok]
        end.";
        let written = self.ctl(&["eval", DUMP]).await?;
        ensure!(
            written.trim() == "[dumped,ok]",
            "the database is not written: {written}"
        );
        Ok(())
    }

    /// Kills the node as if its machine had lost power, and returns once its ports are closed.
    ///
    /// What it had written stays: see [`restart`](Self::restart). A queue declared a moment before may be lost, durable
    /// or not: see [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// Where it was not running.
    pub async fn kill(&self) -> anyhow::Result<()> {
        ensure!(self.is_running(), "{} is not running", self.name);
        self.tell_watchdog("kill")?;
        let what = format!("{} is gone", self.name);
        until(&what, KILL_LIMIT, async || Ok(!self.is_running())).await
    }

    /// Starts the node again after it was [killed](Self::kill), on the same ports and with the data that it had
    /// written to its folder, and waits until it serves clients.
    ///
    /// # Errors
    ///
    /// Where it is running, and where it does not start: with the tail of its log.
    pub async fn restart(&self) -> anyhow::Result<()> {
        ensure!(!self.is_running(), "{} is running", self.name);
        fs::remove_file(self.folder.join(EXITED))?;
        self.tell_watchdog("start")?;
        self.serves_clients().await
    }

    /// Whether the node has been started and has not exited since.
    pub fn is_running(&self) -> bool {
        !self.folder.join(EXITED).exists()
    }

    /// Ends the node as if its machine had lost power, and returns once nothing is left of it.
    pub async fn stop(self) -> anyhow::Result<()> {
        // Drop waits for the watchdog: not on a thread of the runtime.
        spawn_blocking(move || drop(self))
            .await
            .context("ending the node panicked")
    }

    /// Waits until a client gets through the whole AMQP handshake, and the port for TLS is open as well: RabbitMQ 4
    /// opens it up to a second later.
    pub(super) async fn serves_clients(&self) -> anyhow::Result<()> {
        let served = until("it serves clients", START_LIMIT, async || {
            ensure!(self.is_running(), "it exited");
            let attempt = Connection::connect(&self.url, ConnectionProperties::default());
            let Ok(Ok(connection)) = timeout(Duration::from_secs(5), attempt).await else {
                return Ok(false);
            };
            connection.close(200, "it works".into()).await?;
            match self.tls_port {
                Some(port) => Ok(TcpStream::connect(("127.0.0.1", port)).await.is_ok()),
                None => Ok(true),
            }
        });
        served.await.with_context(|| {
            let log = self.log_tail();
            format!("{} did not start; its log ends:\n{log}", self.name)
        })
    }

    fn tell_watchdog(&self, command: &str) -> anyhow::Result<()> {
        let mut input = self.watchdog.stdin.as_ref().context("its input is a pipe")?;
        writeln!(input, "{command}").context("the watchdog is gone")
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // `wait` closes the watchdog's standard input first, which is what ends it.
        let _ = self.watchdog.wait();
    }
}
