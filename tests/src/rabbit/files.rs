//! What a node is started from: the installation, its environment and the files in its folder.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{bail, ensure};

use crate::certificates::{Authority, Identity};

/// The variable that names the folder of another RabbitMQ's programs: see `tests/rabbitmq`.
const PROGRAMS: &str = "RPC_TESTS_RABBITMQ";

/// The `rabbitmq-server` script of the RabbitMQ in `RPC_TESTS_RABBITMQ`, or else of the machine's own.
pub(super) fn find_server() -> anyhow::Result<PathBuf> {
    match env::var_os(PROGRAMS) {
        Some(folder) => server_in(Path::new(&folder)),
        None => find_installed_server(),
    }
}

fn server_in(folder: &Path) -> anyhow::Result<PathBuf> {
    let server = folder.join("rabbitmq-server");
    ensure!(server.is_file(), "{PROGRAMS}: no such file: {}", server.display());
    Ok(server)
}

/// The machine's own `rabbitmq-server` script.
///
/// Debian's `/usr/sbin/rabbitmq-server` is a wrapper that insists on the user rabbitmq; the script behind it runs
/// as anyone, so it comes first.
fn find_installed_server() -> anyhow::Result<PathBuf> {
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

/// The whole environment of a node and of its `rabbitmqctl`: nothing comes from ours but the search path, as a
/// stray `RABBITMQ_…` or `ERL_…` variable would lead to another node.
pub(super) fn environment(
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
        ("RABBITMQ_NODENAME", name.into()),
        ("RABBITMQ_DIST_PORT", distribution_port.to_string().into()),
        ("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf")),
        // Missing on purpose: without it, /etc/rabbitmq would be asked.
        ("RABBITMQ_CONF_ENV_FILE", in_folder("rabbitmq-env.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", in_folder("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("enabled_plugins")),
        // By which the watchdog finds the process to kill.
        ("RABBITMQ_PID_FILE", in_folder("pid")),
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

/// What a node has beyond the usual.
#[derive(Debug, Default)]
pub(super) struct Extras<'a> {
    /// Lines at the end of its `rabbitmq.conf`.
    pub(super) configuration: &'a str,
    pub(super) tls: Option<Tls<'a>>,
}

/// A listener for TLS.
#[derive(Debug)]
pub(super) struct Tls<'a> {
    pub(super) port: u16,
    pub(super) authority: &'a Authority,
    pub(super) identity: &'a Identity,
}

pub(super) fn write(folder: &Path, cookie: &str, amqp_port: u16, extras: &Extras<'_>) -> anyhow::Result<()> {
    // The limits are there so that a small machine does not block publishers.
    let mut configuration = format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp_port}\n\
         loopback_users.guest = false\n\
         vm_memory_high_watermark.absolute = 1GB\n\
         disk_free_limit.absolute = 10MB\n"
    );
    let mut plugins = "[].\n";
    if let Some(tls) = &extras.tls {
        configuration.push_str(&tls.write(folder)?);
        plugins = "[rabbitmq_auth_mechanism_ssl].\n";
    }
    // Of an option that is there twice, the last counts.
    configuration.push_str(extras.configuration);
    configuration.push('\n');
    fs::write(folder.join("rabbitmq.conf"), configuration)?;
    fs::write(folder.join("enabled_plugins"), plugins)?;
    fs::write(folder.join("watchdog.sh"), include_str!("watchdog.sh"))?;

    // Erlang accepts a cookie only if nobody else can read it.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(".erlang.cookie"))?
        .write_all(cookie.as_bytes())?;
    Ok(())
}

impl Tls<'_> {
    /// Writes the certificates, and returns the configuration that names them: clients may show a certificate, which must be
    /// of the same authority, and may log in by its common name.
    fn write(&self, folder: &Path) -> anyhow::Result<String> {
        let files = [
            ("cacertfile", "ca.pem", self.authority.pem()),
            ("certfile", "broker.pem", &self.identity.chain),
            ("keyfile", "broker.key", &self.identity.key),
        ];
        let mut configuration = format!(
            "listeners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\n\
             ssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\n\
             auth_mechanisms.2 = EXTERNAL\n",
            self.port
        );
        for (option, name, text) in files {
            let file = folder.join(name);
            fs::write(&file, text)?;
            configuration.push_str(&format!("ssl_options.{option} = {}\n", file.display()));
        }
        Ok(configuration)
    }
}
