//! Private RabbitMQ nodes.
//!
//! A [`Node`] has its own ports on 127.0.0.1, its own name, cookie, home and epmd, and keeps everything in a
//! temporary folder; it neither meets the machine's own RabbitMQ nor another test's. A watchdog process
//! (`watchdog.sh`) ends it with the test process, however that one ends.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use lapin::{Connection, ConnectionProperties};
use tokio::{process::Command, sync::OnceCell, task::spawn_blocking, time::timeout};
use uuid::Uuid;

use crate::until;

/// How long a node may take until it serves clients; some ten seconds are usual, and a busy machine takes longer.
const START_LIMIT: Duration = Duration::from_secs(180);

/// How long one `rabbitmqctl` may take.
const CTL_LIMIT: Duration = Duration::from_secs(60);

/// How many lines of a node's log an error shows.
const LOG_TAIL: usize = 80;

/// The URL of the broker that the tests of this process share: `AMQP_URL` where that is set, else a node that
/// starts at the first call and ends with the process.
///
/// Whoever shares it uses names that are [`unique`] and leaves the broker itself alone.
///
/// # Panics
///
/// Where the node did not start; then for each caller, with the same reason.
pub async fn shared() -> &'static str {
    static URL: LazyLock<Option<String>> = LazyLock::new(|| env::var("AMQP_URL").ok());
    // A static is never dropped; the watchdog sees the process end.
    static NODE: OnceCell<Result<Node, String>> = OnceCell::const_new();

    if let Some(url) = &*URL {
        return url;
    }
    let node = NODE
        .get_or_init(async || Node::start().await.map_err(|error| format!("{error:?}")))
        .await;
    match node {
        Ok(node) => node.url(),
        Err(error) => panic!("the shared RabbitMQ node did not start: {error}"),
    }
}

/// A name with this prefix that nobody else has, for queues on a shared broker.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::new_v4().simple())
}

/// A running RabbitMQ node of our own.
///
/// Dropping it ends it and removes its folder. It is not tied to the runtime that started it.
#[derive(Debug)]
pub struct Node {
    url: String,
    rabbitmqctl: PathBuf,
    environment: BTreeMap<&'static str, OsString>,
    folder: PathBuf,
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
    async fn start_with(configuration: &str) -> anyhow::Result<Self> {
        let server = find_server()?;
        let [amqp_port, distribution_port, epmd_port] = free_ports()?;
        let name = format!("rpc-test-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?;
        let environment = environment(&name, folder.path(), distribution_port, epmd_port);
        write_files(folder.path(), amqp_port, configuration)?;

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
            rabbitmqctl: server.with_file_name("rabbitmqctl"),
            environment,
            folder: folder.keep(),
            watchdog,
        };
        match node.serves_clients().await {
            Ok(()) => Ok(node),
            Err(error) => Err(error.context(format!(
                "{name} did not start; its log ends:\n{}",
                node.log_tail()
            ))),
        }
    }

    /// The URL under which clients reach the node, as user guest.
    pub fn url(&self) -> &str {
        &self.url
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

    /// Ends the node as if its machine had lost power, and returns once nothing is left of it.
    pub async fn stop(self) -> anyhow::Result<()> {
        // Drop waits for the watchdog: not on a thread of the runtime.
        spawn_blocking(move || drop(self))
            .await
            .context("ending the node panicked")
    }

    /// Waits until a client gets through the whole AMQP handshake.
    async fn serves_clients(&self) -> anyhow::Result<()> {
        let exited = self.folder.join("exited");
        until("it serves clients", START_LIMIT, async || {
            ensure!(!exited.exists(), "it exited");
            let attempt = Connection::connect(&self.url, ConnectionProperties::default());
            let Ok(Ok(connection)) = timeout(Duration::from_secs(5), attempt).await else {
                return Ok(false);
            };
            connection.close(200, "it works".into()).await?;
            Ok(true)
        })
        .await
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

/// The `rabbitmq-server` script of the installation.
///
/// Debian's `/usr/sbin/rabbitmq-server` is a wrapper that insists on the user rabbitmq; the script behind it runs
/// as anyone, so it comes first.
fn find_server() -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from("/usr/lib/rabbitmq/bin")]
        .into_iter()
        .chain(env::split_paths(&path))
        // An ordinary user's PATH lacks these.
        .chain(["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from));
    match folders
        .map(|folder| folder.join("rabbitmq-server"))
        .find(|server| server.is_file())
    {
        Some(server) => Ok(server),
        None => bail!(
            "RabbitMQ is not installed, and these tests need it: apt-get install rabbitmq-server \
             (or run tests/run, which does it; or set AMQP_URL for the tests that only need a broker)"
        ),
    }
}

/// Ports on 127.0.0.1 that nobody listens on.
///
/// They are below the range from which the kernel takes the ports of outgoing connections (from 32768 on): from
/// that range a client could get the port before the node does; it could even connect to itself.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    // Processes begin at different places; within one, no port is offered twice.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let random = Uuid::new_v4().as_u128() % u128::from(RANGE.end - RANGE.start);
        AtomicU16::new(random.try_into().expect("less than the length of the range"))
    });

    let mut ports = [0; N];
    for port in &mut ports {
        *port = (0..1000)
            .map(|_| RANGE.start + NEXT.fetch_add(1, Ordering::Relaxed) % (RANGE.end - RANGE.start))
            .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
            .context("no free port on 127.0.0.1")?;
    }
    Ok(ports)
}

/// The whole environment of a node and of its `rabbitmqctl`: nothing comes from ours but the search path, as a
/// stray `RABBITMQ_…` or `ERL_…` variable would lead to another node.
fn environment(
    name: &str,
    folder: &Path,
    distribution_port: u16,
    epmd_port: u16,
) -> BTreeMap<&'static str, OsString> {
    // RabbitMQ forbids Erlang's schedulers to spin before they sleep. But a start is thousands of small file reads,
    // each handed from thread to thread: on a virtual machine the wake-ups make it three times as slow.
    const SCHEDULERS: &str = "+S 2:2 +sbwt very_short +sbwtdio very_short";
    const LOOPBACK: &str = "-kernel inet_dist_use_interface {127,0,0,1}";
    let in_folder = |name| folder.join(name).into_os_string();

    BTreeMap::from([
        (
            "PATH",
            env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
        ),
        ("LANG", "C.UTF-8".into()),
        ("HOME", folder.into()),
        ("TMPDIR", folder.into()),
        // Erlang starts the port mapper on this port by itself.
        ("ERL_EPMD_PORT", epmd_port.to_string().into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
        ("RABBITMQ_NODENAME", format!("{name}@localhost").into()),
        ("RABBITMQ_DIST_PORT", distribution_port.to_string().into()),
        ("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf")),
        // Missing on purpose: without it, /etc/rabbitmq would be asked.
        ("RABBITMQ_CONF_ENV_FILE", in_folder("rabbitmq-env.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", in_folder("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", in_folder("mnesia")),
        ("RABBITMQ_LOG_BASE", in_folder("logs")),
        // To standard output, which is the log file: there it meets what goes wrong before logging starts.
        ("RABBITMQ_LOGS", "-".into()),
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            format!("{SCHEDULERS} {LOOPBACK}").into(),
        ),
        ("RABBITMQ_CTL_ERL_ARGS", format!("+S 1:1 {LOOPBACK}").into()),
        // Any free port instead of ten fixed ones, which all nodes of the machine would share.
        ("RABBITMQ_CTL_DIST_PORT_MIN", "0".into()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", "0".into()),
    ])
}

fn write_files(folder: &Path, amqp_port: u16, more_configuration: &str) -> anyhow::Result<()> {
    // The limits are there so that a small machine does not block publishers.
    let configuration = format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp_port}\n\
         loopback_users.guest = false\n\
         vm_memory_high_watermark.absolute = 1GB\n\
         disk_free_limit.absolute = 10MB\n\
         {more_configuration}\n"
    );
    fs::write(folder.join("rabbitmq.conf"), configuration)?;
    fs::write(folder.join("enabled_plugins"), "[].\n")?;
    fs::write(folder.join("watchdog.sh"), include_str!("watchdog.sh"))?;

    // Erlang accepts a cookie only if nobody else can read it.
    let cookie = folder.join(".erlang.cookie");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(cookie)?
        .write_all(Uuid::new_v4().simple().to_string().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process,
    };

    use tokio::time::sleep;

    use super::*;

    /// The processes of the node in this folder, by the mark that they inherit.
    fn processes_of(folder: &Path) -> Vec<String> {
        let mark = format!("RPC_TESTS_NODE={}", folder.display());
        let has_mark = |environment: &[u8]| {
            environment
                .split(|&byte| byte == 0)
                .any(|one| one == mark.as_bytes())
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|process| fs::read(process.path().join("environ")).is_ok_and(|it| has_mark(&it)))
            .map(|process| process.file_name().into_string().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn node_answers_rabbitmqctl_and_leaves_nothing_behind() {
        let node = Node::start().await.unwrap();
        let name = node.environment["RABBITMQ_NODENAME"].to_str().unwrap().to_owned();
        let folder = node.folder.clone();

        assert!(node.ctl(&["status"]).await.unwrap().contains(&name));
        let error = node.ctl(&["no_such_command"]).await.unwrap_err().to_string();
        assert!(error.starts_with("rabbitmqctl no_such_command failed"), "{error}");

        node.ctl(&["stop_app"]).await.unwrap();
        assert!(
            Connection::connect(node.url(), ConnectionProperties::default())
                .await
                .is_err()
        );
        node.ctl(&["start_app"]).await.unwrap();
        node.serves_clients().await.unwrap();

        // The node, its helpers and its epmd at least.
        assert!(processes_of(&folder).len() >= 3);
        node.stop().await.unwrap();
        assert_eq!(processes_of(&folder), [""; 0]);
        assert!(!folder.exists());
    }

    /// Not a test: what [`node_goes_with_a_killed_process`] runs in a process of its own, and kills.
    #[tokio::test]
    #[ignore = "is there to be killed"]
    async fn holds_a_node() {
        let node = Node::start().await.unwrap();
        eprintln!("folder: {}", node.folder.display());
        sleep(Duration::from_secs(60)).await;
    }

    #[tokio::test]
    async fn node_goes_with_a_killed_process() {
        let mut holder = process::Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "rabbit::tests::holds_a_node",
                "--ignored",
                "--nocapture",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let folder = BufReader::new(holder.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("folder: ").map(PathBuf::from));
        // Killed also where there was no such line: the process must not outlive this test.
        holder.kill().unwrap();
        holder.wait().unwrap();
        let folder = folder.expect("the other process starts a node");

        until(
            "the watchdog has removed the node",
            Duration::from_secs(20),
            async || Ok(processes_of(&folder).is_empty() && !folder.exists()),
        )
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn failure_to_start_shows_the_log() {
        let error = Node::start_with("no_such_setting = 1").await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("no_such_setting"), "{error}");
        assert!(error.ends_with("it exited"), "{error}");
    }
}
