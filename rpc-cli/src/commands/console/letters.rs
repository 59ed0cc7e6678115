//! Looks at dead letters for the page, and retries and drops them.

use std::time::Duration;

use rpc_runtime::discovery::dead_queue;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dead_letters::find::find;
use crate::dead_letters::headers::properties_json;
use crate::dead_letters::letter::Letter;
use crate::dead_letters::retry::{Retried, retry};
use crate::dead_letters::scan::{HoldLimit, Interrupted, Scan};
use crate::dead_letters::{parse_queue, wanted};
use crate::failure::Failure;
use crate::options::Options;

/// How many letters a page shows.
const MAX_SHOWN: usize = 200;

/// How many ids a request may have.
const MAX_IDS: usize = 1000;

/// How many of the letters that stayed are listed, with the reason.
const MAX_STAYED: usize = 100;

/// How long letters may stay unacknowledged, and so hidden from other consumers.
const HOLD: HoldLimit = HoldLimit {
    time: Duration::from_secs(60),
    advice: "`rpc dead` with `--timeout` holds letters longer",
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListRequest {
    queue: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowRequest {
    queue: String,
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeRequest {
    queue: String,
    action: Action,
    letters: Selected,
}

/// Which letters to change. There is no default: forgetting to select some must not select all.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Selected {
    /// All that are in the queue at the start.
    All,
    Ids(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Retry,
    Drop,
}

/// Returns the first letters in the dead-letter queue of a queue, and how many more there are.
pub(super) async fn list(
    request: ListRequest,
    interrupted: Interrupted,
    options: &Options,
) -> Result<Value, Failure> {
    let mut scan = open(&request.queue, interrupted, options).await?;
    let letters = first_letters(&mut scan).await;
    // Whatever happened, `finish` puts the letters back.
    let more = scan.left;
    let (notes, finished) = scan.finish().await;
    let letters = letters?;
    finished?;
    Ok(json!({"letters": letters, "more": more, "notes": notes}))
}

async fn first_letters(scan: &mut Scan) -> Result<Vec<Value>, Failure> {
    let mut letters = Vec::new();
    while letters.len() < MAX_SHOWN
        && let Some(letter) = scan.next().await?
    {
        letters.push(letter.facts.json(&letter.id));
    }
    Ok(letters)
}

/// Returns a letter with its arguments, properties and headers. Fails unless exactly one letter has
/// the id.
pub(super) async fn show(
    request: ShowRequest,
    interrupted: Interrupted,
    options: &Options,
) -> Result<Value, Failure> {
    let ids = parse_ids(vec![request.id])?;
    let mut scan = open(&request.queue, interrupted, options).await?;
    let needs_bodies = true;
    let found = find(&mut scan, &request.queue, &ids, needs_bodies).await;
    let (_, finished) = scan.finish().await;
    let found = found?;
    finished?;
    Ok(found.first().map(letter_json).unwrap_or_default())
}

fn letter_json(letter: &Letter) -> Value {
    let mut json = letter.facts.json(&letter.id);
    // These three are JSON text, because the page would round large numbers. The arguments are
    // `null` if they cannot be read.
    json["arguments"] = letter.arguments().into();
    json["properties"] = properties_json(&letter.message.properties).to_string().into();
    json["headers"] = letter.headers().to_string().into();
    json
}

/// What became of the letters of a request.
pub(super) struct Changed {
    pub(super) report: Value,
    /// Why the work ended early, or why held letters could not be put back. The report has what was
    /// done before.
    pub(super) failure: Option<Failure>,
}

/// Retries or drops letters. An error means that no letter was looked at. Later failures are in
/// [`Changed`].
pub(super) async fn change(
    request: ChangeRequest,
    interrupted: Interrupted,
    options: &Options,
) -> Result<Changed, Failure> {
    let ids = match request.letters {
        Selected::All => None,
        Selected::Ids(ids) => Some(parse_ids(ids)?),
    };
    let mut change = Change {
        queue: request.queue,
        action: request.action,
        done: 0,
        stayed: 0,
        reasons: Vec::new(),
    };
    let mut scan = open(&change.queue, interrupted, options).await?;
    let changed = change.apply(ids.as_deref(), &mut scan).await;
    let (notes, finished) = scan.finish().await;
    let report = json!({
        "done": change.done,
        "stayed": change.stayed,
        "reasons": change.reasons,
        "notes": notes,
    });
    let failure = changed.and(finished).err();
    Ok(Changed { report, failure })
}

/// The retry or drop of letters, and what became of them so far.
struct Change {
    queue: String,
    action: Action,
    /// How many letters were retried or dropped.
    done: u64,
    /// How many letters were found but stay: they cannot be retried, or the scan had to stop.
    stayed: u64,
    /// The first letters that stayed, and why.
    reasons: Vec<Value>,
}

impl Change {
    /// Retries or drops the letters with these ids, or all if `ids` is `None`, and counts what
    /// became of them. If an id matches no letter or several, no letter is changed.
    async fn apply(&mut self, ids: Option<&[String]>, scan: &mut Scan) -> Result<(), Failure> {
        let Some(ids) = ids else {
            while let Some(letter) = scan.next().await? {
                self.apply_to(letter, scan).await?;
            }
            return Ok(());
        };
        let needs_bodies = self.action == Action::Retry;
        for letter in find(scan, &self.queue, ids, needs_bodies).await? {
            match scan.check_stop() {
                Some(stop) => self.add_stayed(&letter.id, &stop.to_string()),
                None => self.apply_to(letter, scan).await?,
            }
        }
        Ok(())
    }

    async fn apply_to(&mut self, letter: Letter, scan: &mut Scan) -> Result<(), Failure> {
        match self.action {
            Action::Retry => self.retry(letter, scan).await,
            Action::Drop => {
                scan.ack(letter.message.tag).await?;
                self.done += 1;
                Ok(())
            }
        }
    }

    async fn retry(&mut self, letter: Letter, scan: &mut Scan) -> Result<(), Failure> {
        let id = letter.id.clone();
        match retry(letter, &self.queue, scan).await? {
            Retried::Sent => self.done += 1,
            Retried::Stays(reason) => self.add_stayed(&id, &reason),
        }
        Ok(())
    }

    fn add_stayed(&mut self, id: &str, reason: &str) {
        self.stayed += 1;
        if self.reasons.len() < MAX_STAYED {
            self.reasons.push(json!({"id": id, "reason": reason}));
        }
    }
}

async fn open(queue: &str, interrupted: Interrupted, options: &Options) -> Result<Scan, Failure> {
    let queue = parse_queue(queue).map_err(|reason| {
        let message = format!("{:?} has no dead letters: {reason}", dead_queue(queue));
        Failure::Usage { message, hint: None }
    })?;
    Scan::open(&queue, HOLD, interrupted, options).await
}

fn parse_ids(ids: Vec<String>) -> Result<Vec<String>, Failure> {
    let refused = |message: String| Failure::Usage { message, hint: None };
    if ids.len() > MAX_IDS {
        return Err(refused(format!("more than {MAX_IDS} ids are given")));
    }
    let ids = ids.iter().map(|id| wanted::parse_id(id).map_err(refused));
    ids.collect()
}
