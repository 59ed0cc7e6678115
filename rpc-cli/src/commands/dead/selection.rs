//! Which letters `retry` and `drop` act on.

use std::time::SystemTime;

use clap::Args;

use super::filter::Filter;
use super::hold::Hold;
use crate::dead_letters::letter::Letter;
use crate::dead_letters::scan::Scan;
use crate::dead_letters::wanted::parse_id;
use crate::failure::Failure;

/// How many ids a command takes: each is compared with each letter.
const MAX_IDS: usize = 1000;

/// The letters to act on.
#[derive(Debug, Clone, Args)]
pub(super) struct Selection {
    /// The letters' ids, or the beginnings of them.
    #[arg(value_name = "ID", value_parser = parse_id, conflicts_with = "all")]
    pub(super) ids: Vec<String>,

    /// All letters that the options select.
    #[arg(long)]
    pub(super) all: bool,

    #[command(flatten)]
    pub(super) filter: Filter,

    /// Stop after this many letters.
    #[arg(long, value_name = "COUNT", requires = "all", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,

    /// Only print what would be done.
    #[arg(long)]
    pub(super) dry_run: bool,

    #[command(flatten)]
    pub(super) hold: Hold,
}

impl Selection {
    /// Fails unless letters are selected either with `--all`, or by at most [`MAX_IDS`] ids and no
    /// filter.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if !self.all && self.ids.is_empty() {
            return Err(Failure::usage(
                "no letters are selected",
                "name their ids, or use `--all`",
            ));
        }
        if !self.all && !self.filter.is_empty() {
            return Err(Failure::usage(
                "letters are selected both by id and by options",
                "use the options with `--all`",
            ));
        }
        if self.ids.len() > MAX_IDS {
            return Err(Failure::usage(
                format!("more than {MAX_IDS} ids are given"),
                "use `--all` with options, or several commands",
            ));
        }
        Ok(())
    }

    /// With `--all`: takes the next selected letter. Returns `None` at the end, if the scan has to
    /// stop, or if `--limit` allows no more letters than the `done` ones.
    pub(super) async fn next(&self, scan: &mut Scan, done: u64) -> Result<Option<Letter>, Failure> {
        if self.limit.is_some_and(|limit| done >= limit) {
            return Ok(None);
        }
        while let Some(letter) = scan.next().await? {
            if self.filter.selects(&letter.facts, SystemTime::now()) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }
}
