//! The machine that this process runs on.

use std::sync::LazyLock;

/// The machine's name, as far as it can be had without asking the operating system in its own tongue.
pub(crate) fn host_name() -> &'static str {
    static HOST: LazyLock<String> = LazyLock::new(|| {
        let of_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let of_shell = || {
            ["HOSTNAME", "COMPUTERNAME"]
                .iter()
                .find_map(|name| std::env::var(name).ok())
        };
        let name = of_kernel().or_else(of_shell).unwrap_or_default();
        name.trim().to_owned()
    });
    &HOST
}
