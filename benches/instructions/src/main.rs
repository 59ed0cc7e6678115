//! Counts the instructions of paths, which are parts of what caller and worker do for a call, or a
//! whole call within the process. Compares the counts with the recorded ones.
//!
//! ```sh
//! cargo run --profile counts -p rpc-instructions                   # compares; needs valgrind
//! WRITE_COUNTS=1 cargo run --profile counts -p rpc-instructions    # records
//! ```
//!
//! The time of a benchmark changes by tenths from run to run, on a shared machine by more. The
//! number of instructions of the same program is nearly the same in each run, so a difference of a
//! few percent comes from the code, the compiler or the C library.
//!
//! The program runs itself under valgrind, once for each path.

mod counts;
mod environment;
mod paths;
mod valgrind;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use counts::Counts;
use environment::Environment;

/// Makes the program run the path whose name follows, instead of counting.
const RUN: &str = "--run";

fn main() -> Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => record_or_compare(),
        [RUN, path] => {
            paths::run(path)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("this program takes no arguments"),
    }
}

/// Counts the instructions of all paths. With `WRITE_COUNTS`, records the counts. Otherwise
/// compares them with the recorded ones, and returns a failure if one is out of tolerance. Succeeds
/// without counting if there are no recorded counts for this target.
fn record_or_compare() -> Result<ExitCode> {
    let Some(environment) = Environment::current()? else {
        println!("not run: the counts are those of x86_64 with glibc");
        return Ok(ExitCode::SUCCESS);
    };
    if cfg!(debug_assertions) {
        bail!("this build is not optimized; run `cargo run --profile counts -p rpc-instructions`");
    }
    if option_env!("CARGO_INCREMENTAL") == Some("1") {
        bail!("this build is incremental, which changes what is inlined; unset CARGO_INCREMENTAL");
    }
    let counted = paths::names()
        .map(|path| Ok((path.to_owned(), valgrind::count(path)?)))
        .collect::<Result<_>>()?;
    let counted = Counts {
        environment,
        paths: counted,
    };
    let file = file();
    if env::var_os("WRITE_COUNTS").is_some() {
        fs::write(&file, counted.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        println!("written to {}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let recorded = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let recorded = Counts::parse(&recorded).with_context(|| format!("{} is invalid", file.display()))?;
    let comparison = counts::compare(&recorded, &counted);
    print!("{comparison}");
    Ok(match comparison.is_within_tolerance() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The file with the recorded counts.
fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.txt")
}
