//! Sends a dead letter to its queue again, as a new job.

use rpc_runtime::__tools::CopyOutcome;
use rpc_runtime::BrokerError;

use super::headers::retry_properties;
use super::letter::Letter;
use super::scan::Scan;
use crate::failure::Failure;

/// What became of a letter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Retried {
    /// The broker has confirmed its copy, and the letter is removed.
    Sent,
    /// It stays in the queue, for this reason.
    Stays(String),
}

/// Retries a letter that is held.
///
/// # Errors
///
/// Fails if the queue is missing or refuses messages, if publishing fails, or if it is not known
/// whether the copy was stored or the letter removed. The caller should then stop, because other
/// letters would fail too.
pub(crate) async fn retry(letter: Letter, queue: &str, scan: &mut Scan) -> Result<Retried, Failure> {
    if let Some(reason) = obstacle(&letter, queue) {
        return Ok(Retried::Stays(reason));
    }
    let Letter { id, message, facts } = letter;
    let copy = retry_properties(&message.properties);
    let target = facts.target(queue);
    match scan.reader.publish(&target, copy, message.body).await {
        Ok(CopyOutcome::Confirmed) => {
            let acked = scan.ack(message.tag).await;
            acked.map_err(|error| maybe_retried(&id, error))?;
            Ok(Retried::Sent)
        }
        Ok(CopyOutcome::Invalid(cause)) => Ok(Retried::Stays(cause.to_string())),
        Ok(CopyOutcome::Unroutable) => Err(Failure::NotFound {
            message: format!("there is no queue {target}: the other letters stay"),
            hint: "start a worker, which declares it".to_owned(),
        }),
        Ok(CopyOutcome::Refused) => Err(Failure::Stay {
            message: format!("the queue {target} refuses messages: the other letters stay"),
            hint: "it may be full: try again later".to_owned(),
        }),
        Err(error @ (BrokerError::Unresponsive { .. } | BrokerError::Lost { .. })) => {
            Err(maybe_retried(&id, error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Why a letter cannot be retried. `None` if it can.
pub(crate) fn obstacle(letter: &Letter, queue: &str) -> Option<String> {
    if let Some(reason) = &letter.message.malformed {
        return Some(format!("it cannot be copied: {reason}"));
    }
    match &letter.facts.origin {
        Some(origin) if !letter.facts.is_from(queue) => Some(format!("it comes from the queue {origin:?}")),
        _ => None,
    }
}

/// The failure of a retry whose outcome is not known.
fn maybe_retried(id: &str, source: BrokerError) -> Failure {
    Failure::MaybeRetried {
        id: id.to_owned(),
        source,
    }
}
