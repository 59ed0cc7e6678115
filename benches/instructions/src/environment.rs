//! What the counts depend on beside the code.

use std::fmt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The compiler and the C library with which instructions were counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) rustc: String,
    /// Matters because its allocator and its copying of bytes are counted too.
    pub(crate) libc: String,
}

impl Environment {
    /// The environment of this program. `None` if it is built for anything but x86-64, Linux and
    /// glibc: there are no recorded counts for other targets.
    pub(crate) fn current() -> Result<Option<Self>> {
        if !cfg!(all(
            target_arch = "x86_64",
            target_os = "linux",
            target_env = "gnu"
        )) {
            return Ok(None);
        }
        let getconf = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
        let getconf = getconf.context("cannot run getconf")?;
        ensure!(getconf.status.success(), "getconf does not know GNU_LIBC_VERSION");
        Ok(Some(Self {
            rustc: env!("RUSTC_VERSION").to_owned(),
            libc: String::from_utf8(getconf.stdout)?.trim().to_owned(),
        }))
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.rustc, self.libc)
    }
}
