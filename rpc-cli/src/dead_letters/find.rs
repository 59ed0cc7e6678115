//! Searches a dead-letter queue for letters by their ids.

use rpc_runtime::__tools::TakenMessage;

use super::letter::Letter;
use super::scan::Scan;
use super::wanted::Wanted;
use crate::failure::Failure;

/// The limit on the size of letters that are kept while others are searched, in bytes.
const MAX_KEPT: usize = 256 * 1024 * 1024;

/// Searches for letters by their ids, or by the beginnings of them. Returns each letter once, in
/// the order of the queue, and without its body unless `needs_bodies`. Takes letters to the end,
/// unless letters with exactly these ids are found before.
///
/// # Errors
///
/// Fails if an id matches no letter or several, if the letters are too large to keep, or if the
/// scan stops while further letters may match.
pub(crate) async fn find(
    scan: &mut Scan,
    queue: &str,
    ids: &[String],
    needs_bodies: bool,
) -> Result<Vec<Letter>, Failure> {
    let mut wanted = Wanted::new(ids);
    let mut kept_bytes = 0;
    while !wanted.is_complete()
        && let Some(mut letter) = scan.next().await?
    {
        if !needs_bodies {
            letter.message.body = Vec::new();
        }
        let (id, size) = (letter.id.clone(), size_of(&letter.message));
        if wanted.keep_if_needed(&id, letter) {
            kept_bytes += size;
        }
        if kept_bytes > MAX_KEPT {
            return Err(Failure::usage(
                format!("these letters have more than {} MiB together", MAX_KEPT >> 20),
                "name fewer at a time, or write more digits of their ids, so that fewer letters fit them",
            ));
        }
    }
    if scan.stop.is_some() && !wanted.is_complete() {
        return Err(Failure::Stay {
            message: "not all letters were looked at, so the ids may fit further ones".to_owned(),
            hint: format!("write whole ids; {}", scan.advice()),
        });
    }
    let found = wanted.found(queue)?;
    Ok(found.into_iter().map(|(_, letter)| letter).collect())
}

fn size_of(message: &TakenMessage) -> usize {
    // 4096 is an allowance for the properties, which may be larger but fit into a frame.
    message.body.len() + 4096
}
