//! Which letters `retry` and `drop` act on.

use std::time::SystemTime;

use clap::Args;
use rpc_runtime::__tools::TakenMessage;

use super::filter::Filter;
use super::letter::Letter;
use super::scan::{Hold, Scan};
use super::wanted::{Wanted, parse_id};
use crate::failure::Failure;

const MAX_IDS: usize = 1000;

/// The limit on the size of letters that are kept while others are searched, in bytes.
const MAX_KEPT: usize = 256 * 1024 * 1024;

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
    /// Fails unless letters are selected either with `--all` or by at most [`MAX_IDS`] ids.
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

    /// With `--all`: takes the next selected letter. `None` at the end, at a stop or at `--limit`.
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

/// Searches for letters by their ids. Drops their bodies unless `needs_bodies`.
pub(super) async fn find(
    scan: &mut Scan,
    queue: &str,
    ids: &[String],
    needs_bodies: bool,
) -> Result<Vec<Letter>, Failure> {
    let mut wanted = Wanted::new(ids);
    let mut kept = 0;
    while !wanted.is_complete()
        && let Some(mut letter) = scan.next().await?
    {
        if !needs_bodies {
            letter.message.body = Vec::new();
        }
        let (id, size) = (letter.id.clone(), size_of(&letter.message));
        if wanted.offer(&id, letter) {
            kept += size;
        }
        if kept > MAX_KEPT {
            return Err(Failure::usage(
                format!("these letters have more than {} MiB together", MAX_KEPT >> 20),
                "name fewer in one command, or write more digits of their ids, so that fewer letters fit them",
            ));
        }
    }
    if scan.stop.is_some() && !wanted.is_complete() {
        return Err(Failure::Stay {
            message: "not all letters were looked at, so the ids may fit further ones".to_owned(),
            hint: "write whole ids, or use a longer `--timeout`".to_owned(),
        });
    }
    let found = wanted.found(queue)?;
    Ok(found.into_iter().map(|(_, letter)| letter).collect())
}

fn size_of(message: &TakenMessage) -> usize {
    // An allowance for the properties, which fit into a frame.
    message.body.len() + 4096
}
