//! The host that this process runs on.

use std::sync::LazyLock;

/// Returns the host's name, or an empty string if it is unknown. It is read from a file of the
/// kernel or from the environment, because a system call would need `unsafe` code.
pub(crate) fn host_name() -> &'static str {
    static HOST: LazyLock<String> = LazyLock::new(|| {
        let from_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let from_environment = || {
            ["HOSTNAME", "COMPUTERNAME"]
                .iter()
                .find_map(|name| std::env::var(name).ok())
        };
        let name = from_kernel().or_else(from_environment).unwrap_or_default();
        name.trim().to_owned()
    });
    &HOST
}
