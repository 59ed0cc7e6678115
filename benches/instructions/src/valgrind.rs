//! Runs a path of this program under valgrind's tool callgrind.

use std::env;
use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::RUN;

/// The C library chooses how to copy bytes by what the processor can do. With this, it chooses the
/// same on all of them.
const SAME_ON_ALL_PROCESSORS: &str = "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// Runs this program with a path, and counts the instructions within `paths::counted`.
pub(crate) fn count(path: &str) -> Result<u64> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let out = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=*rpc_instructions*paths*counted*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .args([RUN, path])
        .env("GLIBC_TUNABLES", SAME_ON_ALL_PROCESSORS)
        .output();
    let output = match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("please install valgrind; on Debian and Ubuntu: apt-get install valgrind")
        }
        output => output.context("cannot run valgrind")?,
    };
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{path} fails under valgrind ({}):\n{log}", output.status);
    }
    collected(&log).ok_or_else(|| anyhow!("valgrind has not counted {path}:\n{log}"))
}

/// The number of instructions in valgrind's log. `None` if the log has no number, or zero.
fn collected(log: &str) -> Option<u64> {
    let (_, count) = log.lines().find_map(|line| line.split_once("Collected : "))?;
    count.trim().parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_in_the_log() {
        let log = "==7== Events    : Ir\n==7== Collected : 1234\n==7== \n==7== I   refs:      1,234\n";
        assert_eq!(collected(log), Some(1234));
        // As if nothing was called that has the name.
        assert_eq!(collected(&log.replace("1234", "0")), None);
        assert_eq!(collected("==7== Events    : Ir\n"), None);
    }
}
