//! What a node starts from: the installation, its environment and the files in its folder.

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

/// The environment variable with the folder of another RabbitMQ's programs: see `tests/rabbitmq`.
const PROGRAMS: &str = "RPC_TESTS_RABBITMQ";

/// Returns the `rabbitmq-server` script in `RPC_TESTS_RABBITMQ`, or the machine's own.
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

/// Returns the machine's own `rabbitmq-server` script.
///
/// Debian's `/usr/sbin/rabbitmq-server` is a wrapper that insists on the user rabbitmq. The script
/// behind it runs as any user, so it comes first.
fn find_installed_server() -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from("/usr/lib/rabbitmq/bin")]
        .into_iter()
        .chain(env::split_paths(&path))
        // The PATH of an ordinary user lacks these.
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

/// Returns the environment of a node and its `rabbitmqctl`, all but the watchdog's mark. Only the
/// search path is inherited: a stray `RABBITMQ_…` or `ERL_…` variable would lead to another node.
pub(super) fn environment(
    name: &str,
    folder: &Path,
    distribution_port: u16,
    epmd_port: u16,
) -> BTreeMap<&'static str, OsString> {
    // By default, RabbitMQ forbids Erlang's schedulers to spin before they sleep. But a node reads
    // thousands of small files when it starts, and each read wakes other threads. Without spinning,
    // this triples the start time on a virtual machine.
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
        // Erlang starts the port mapper on this port.
        ("ERL_EPMD_PORT", epmd_port.to_string().into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
        ("RABBITMQ_NODENAME", name.into()),
        ("RABBITMQ_DIST_PORT", distribution_port.to_string().into()),
        ("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf")),
        // This file does not exist. Without the variable, RabbitMQ would read one in /etc/rabbitmq.
        ("RABBITMQ_CONF_ENV_FILE", in_folder("rabbitmq-env.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", in_folder("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("enabled_plugins")),
        // The watchdog reads this file to kill the node, and so does `Node::pid`.
        ("RABBITMQ_PID_FILE", in_folder("pid")),
        ("RABBITMQ_MNESIA_BASE", in_folder("mnesia")),
        ("RABBITMQ_LOG_BASE", in_folder("logs")),
        // To standard output, which is our log file. It also has errors from before logging starts.
        ("RABBITMQ_LOGS", "-".into()),
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            format!("{SCHEDULERS} {LOOPBACK}").into(),
        ),
        ("RABBITMQ_CTL_ERL_ARGS", format!("+S 1:1 {LOOPBACK}").into()),
        // Any free port. The default is ten fixed ports, which all nodes of the machine would
        // share.
        ("RABBITMQ_CTL_DIST_PORT_MIN", "0".into()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", "0".into()),
    ])
}

/// Extra configuration of a node.
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

/// Writes the files that a node reads when it starts, and its watchdog.
pub(super) fn write(folder: &Path, cookie: &str, amqp_port: u16, extras: &Extras<'_>) -> anyhow::Result<()> {
    // With these limits of memory and disk, a small machine does not block publishers.
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
    // If an option is repeated, the last one applies.
    configuration.push_str(extras.configuration);
    configuration.push('\n');
    fs::write(folder.join("rabbitmq.conf"), configuration)?;
    fs::write(folder.join("enabled_plugins"), plugins)?;
    fs::write(folder.join("watchdog.sh"), include_str!("watchdog.sh"))?;

    // Erlang accepts a cookie only if other users cannot read it.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(".erlang.cookie"))?
        .write_all(cookie.as_bytes())?;
    Ok(())
}

impl Tls<'_> {
    /// Writes the certificates and the key, and returns the configuration for them. Clients may
    /// present a certificate of the same authority and log in as the user with its common name.
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
