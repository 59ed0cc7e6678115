//! A single node.

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

/// How long a node may take to start. About ten seconds are usual; a busy machine takes longer.
const START_LIMIT: Duration = Duration::from_secs(180);

/// How long a killed node may take to exit.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// How long one `rabbitmqctl` may take.
const CTL_LIMIT: Duration = Duration::from_secs(60);

/// How many lines of a node's log an error message includes.
const LOG_TAIL: usize = 80;

/// The file that the watchdog creates when the server has exited.
const EXITED: &str = "exited";

/// What the nodes of a cluster share.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) cookie: String,
    /// The port of the port mapper for their names. The first node starts it.
    pub(super) epmd_port: u16,
}

impl Peers {
    /// Creates a cookie and a port for a single node, which shares them with no other.
    fn none() -> anyhow::Result<Self> {
        let [epmd_port] = free_ports()?;
        let cookie = Uuid::new_v4().simple().to_string();
        Ok(Self { cookie, epmd_port })
    }
}

/// A user's permissions: regular expressions over the names of queues and exchanges.
#[derive(Debug, Clone, Copy)]
pub struct Permissions<'a> {
    /// What the user may declare and delete.
    pub configure: &'a str,
    /// What the user may publish to or bind.
    pub write: &'a str,
    /// What the user may consume or bind to.
    pub read: &'a str,
}

impl Permissions<'_> {
    /// All permissions.
    pub const ALL: Self = Self {
        configure: ".*",
        write: ".*",
        read: ".*",
    };
}

/// A private RabbitMQ node, which runs unless it was [killed](Node::kill).
///
/// Dropping it stops the node and removes its folder. It does not depend on the runtime that
/// started it.
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
    /// Fails if RabbitMQ is not installed, or with the end of the node's log if it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    /// Starts a node with these lines at the end of its `rabbitmq.conf`.
    ///
    /// # Errors
    ///
    /// Fails like [`start`](Self::start).
    pub async fn start_with(configuration: &str) -> anyhow::Result<Self> {
        let extras = Extras {
            configuration,
            tls: None,
        };
        Self::start_among(&Peers::none()?, &extras).await
    }

    /// Starts a node that also serves TLS with this certificate, at [`tls_url`](Self::tls_url),
    /// with these lines at the end of its `rabbitmq.conf`. It accepts client certificates of the
    /// same authority, and lets clients log in with one as the user with its common name.
    ///
    /// # Errors
    ///
    /// Fails like [`start`](Self::start).
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

    /// Starts a node that shares the cookie and the port mapper with its peers, but does not join
    /// them. Waits until it serves clients.
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
            // In a process group of its own: Ctrl-C ends the tests, and the watchdog then stops the
            // node.
            .process_group(0)
            .spawn()
            .context("the watchdog does not start")?;

        // From here on, the watchdog removes the folder.
        let node = Self {
            url: format!("amqp://guest:guest@127.0.0.1:{amqp_port}/%2f"),
            tls_port: extras.tls.as_ref().map(|tls| tls.port),
            name,
            rabbitmqctl: server.with_file_name("rabbitmqctl"),
            environment,
            folder: folder.keep(),
            watchdog,
        };
        node.has_started().await?;
        Ok(node)
    }

    /// Returns its Erlang node name, as in `rabbitmqctl -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the URL of the node, for the user guest.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the TLS URL of the node with these credentials, as `user:password`, and this host, a
    /// name of this machine.
    ///
    /// # Panics
    ///
    /// Panics if the node was not [started with TLS](Self::start_with_tls).
    pub fn tls_url(&self, credentials: &str, host: &str) -> String {
        let port = self.tls_port.expect("a node that was started with TLS");
        format!("amqps://{credentials}@{host}:{port}/%2f")
    }

    /// Creates a user with these permissions in the virtual host `/`.
    ///
    /// # Errors
    ///
    /// Fails if `rabbitmqctl` fails.
    pub async fn add_user(&self, name: &str, password: &str, may: Permissions<'_>) -> anyhow::Result<()> {
        self.ctl(&["add_user", name, password]).await?;
        self.permit(name, may).await
    }

    /// Replaces the permissions of a user in the virtual host `/`.
    ///
    /// # Errors
    ///
    /// Fails if `rabbitmqctl` fails.
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

    /// Returns the major and minor version of RabbitMQ, such as `(4, 3)`.
    ///
    /// # Errors
    ///
    /// Fails if `rabbitmqctl` fails or prints no version.
    pub async fn version(&self) -> anyhow::Result<(u16, u16)> {
        let text = self.ctl(&["version"]).await?;
        let mut numbers = text.trim().split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => bail!("not a version: {text:?}"),
        }
    }

    /// Returns the process id of the node, which changes after a [`restart`](Self::restart).
    ///
    /// # Errors
    ///
    /// Fails if the node has not written its process id.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let file = self.folder.join("pid");
        let pid = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        pid.trim()
            .parse()
            .with_context(|| format!("{} holds no process id", file.display()))
    }

    /// Runs `rabbitmqctl` against this node and returns its standard output.
    ///
    /// `["close_all_connections", "why"]` closes all client connections. `["stop_app"]` and
    /// `["start_app"]` are an outage on the same port, which only durable queues survive.
    ///
    /// # Errors
    ///
    /// Fails if the command fails or takes longer than a minute.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let what = || format!("rabbitmqctl {}", arguments.join(" "));
        let mut command = Command::new(&self.rabbitmqctl);
        command.arg("--quiet").args(arguments);
        command
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // The watchdog finds the node's processes by this variable.
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

    /// Makes the node write its virtual hosts, users, exchanges and queues to disk. Returns when
    /// they survive a [kill](Self::kill).
    ///
    /// RabbitMQ 3.10 may confirm a durable queue before it is on disk: on a busy machine, one in
    /// ten was lost. RabbitMQ 4.3 has no Mnesia. Its database, Khepri, writes a queue to disk
    /// before it is confirmed.
    ///
    /// The list of the quorum queues of a node is a DETS table that is written every half second.
    /// Before RabbitMQ 4.3, a queue that is missing from it after a crash does not answer.
    pub async fn flush(&self) -> anyhow::Result<()> {
        const DUMP: &str = "lists:foreach(fun dets:sync/1, dets:all()),
            case lists:keymember(mnesia, 1, application:which_applications()) of
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

    /// Kills the node with SIGKILL. Returns once it has exited, so that its ports are closed.
    ///
    /// Its data on disk stays: see [`restart`](Self::restart). A queue declared shortly before may
    /// be lost, even a durable one: see [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// Fails if it is not running or does not exit in time.
    pub async fn kill(&self) -> anyhow::Result<()> {
        ensure!(self.is_running(), "{} is not running", self.name);
        self.tell_watchdog("kill")?;
        let what = format!("{} is gone", self.name);
        until(&what, KILL_LIMIT, async || Ok(!self.is_running())).await
    }

    /// Restarts a [killed](Self::kill) node with the same ports and the data on its disk. Waits
    /// until it serves clients.
    ///
    /// # Errors
    ///
    /// Fails if it is running, or with the end of its log if it does not start.
    pub async fn restart(&self) -> anyhow::Result<()> {
        ensure!(!self.is_running(), "{} is running", self.name);
        fs::remove_file(self.folder.join(EXITED))?;
        self.tell_watchdog("start")?;
        self.has_started().await
    }

    /// Returns whether the node was started and has not exited.
    pub fn is_running(&self) -> bool {
        !self.folder.join(EXITED).exists()
    }

    /// Kills the node with SIGKILL. Returns once all its processes have ended and its folder is
    /// removed.
    pub async fn stop(self) -> anyhow::Result<()> {
        // Drop waits for the watchdog, so it must not run on a thread of the runtime.
        spawn_blocking(move || drop(self))
            .await
            .context("ending the node panicked")
    }

    /// Waits until the node serves clients and has started completely. It serves them shortly
    /// before that. Until then, RabbitMQ 4 drops messages to direct reply-to addresses, and some
    /// commands of `rabbitmqctl` fail.
    pub(super) async fn has_started(&self) -> anyhow::Result<()> {
        self.serves_clients().await?;
        self.ctl(&["await_startup"]).await.map(drop)
    }

    /// Waits until a client completes the AMQP handshake and the TLS port, if there is one, is
    /// open. RabbitMQ 4 opens that port up to a second later. Fails as soon as the node exits.
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

    /// Sends the watchdog a command, `kill` or `start`, and does not wait until it is done.
    fn tell_watchdog(&self, command: &str) -> anyhow::Result<()> {
        let mut input = self.watchdog.stdin.as_ref().context("its input is a pipe")?;
        writeln!(input, "{command}").context("the watchdog is gone")
    }

    /// Returns the last lines of the node's log.
    fn log_tail(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // `wait` first closes the watchdog's standard input, which stops it.
        let _ = self.watchdog.wait();
    }
}
