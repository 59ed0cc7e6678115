//! Tells workers how many items they may send.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{CREDIT_TYPE, Grant, MAX_GRANTS, Message, Properties, ShortStr, Volume, write_grants};
use crate::transport::{Outgoing, Published, Publisher, SendToken, Transport};

/// How long a message may wait for a connection and for its confirm.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// The credit that workers were not told of, by their routing keys and the ids of streams.
///
/// A later grant of a stream replaces an earlier one.
#[derive(Debug, Default)]
pub(in crate::client) struct Grants {
    queued: Mutex<Queued>,
    added: Notify,
}

/// How long no credit is granted after the broker refused it. The broker logs each refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

type Queued = HashMap<ShortStr, HashMap<Uuid, Volume, RandomState>, RandomState>;

impl Grants {
    pub(in crate::client) fn add(&self, worker: ShortStr, Grant { id, credit }: Grant) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.entry(worker).or_default().insert(id, credit);
        drop(queued);
        self.added.notify_one();
    }

    /// Sends each grant, several to one worker in a message. While the broker confirms a message,
    /// later grants of a stream replace earlier ones.
    pub(in crate::client) async fn send_all(&self, transport: &Arc<dyn Transport>) -> Infallible {
        let mut publisher = None;
        loop {
            self.added.notified().await;
            let queued = std::mem::take(&mut *self.queued.lock().unwrap_or_else(PoisonError::into_inner));
            // In an order that does not depend on hashes, so that a simulation repeats it.
            let mut queued: Vec<_> = queued.into_iter().collect();
            queued.sort_unstable_by(|(worker, _), (other, _)| worker.as_str().cmp(other.as_str()));
            let messages = queued
                .into_iter()
                .flat_map(|(worker, grants)| messages(&worker, grants));
            for message in messages {
                match timeout(SEND_LIMIT, send(transport, &mut publisher, message)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) if is_refused(&error) => {
                        log_refusal(&error);
                        sleep(REFUSED_PAUSE).await;
                        self.queued.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    }
                    Ok(Err(_)) | Err(_) => {}
                }
                publisher = None;
                // The others are old by now. A worker that does not get credit asks for it.
                break;
            }
        }
    }
}

/// Whether the exchange does not exist, or the user may not publish to it.
fn is_refused(error: &BrokerError) -> bool {
    !error.is_waited_out() || matches!(error, BrokerError::ChannelClosed { .. })
}

fn log_refusal(error: &BrokerError) {
    let error = Logged(Chain(error));
    tracing::warn!(
        %error,
        "cannot grant credit to streams: the exchange rpc.control does not exist, or the user has no write permission on it"
    );
}

/// Sends a message. Opens a publisher if there is none.
async fn send(
    transport: &Arc<dyn Transport>,
    publisher: &mut Option<Arc<dyn Publisher>>,
    message: Outgoing,
) -> Result<(), BrokerError> {
    let publisher = match publisher {
        Some(publisher) => publisher,
        None => publisher.insert(transport.open_control_publisher().await?),
    };
    match publisher.publish(message).await {
        Published::Failed { source, .. } => Err(source),
        _ => Ok(()),
    }
}

/// Returns the messages that tell one worker of its grants.
fn messages(worker: &ShortStr, grants: HashMap<Uuid, Volume, RandomState>) -> Vec<Outgoing> {
    let grants = grants.into_iter().map(|(id, credit)| Grant { id, credit });
    let mut grants: Vec<_> = grants.collect();
    grants.sort_unstable_by_key(|grant| grant.id);
    let messages = grants
        .chunks(MAX_GRANTS)
        .map(|grants| message(worker.clone(), grants));
    messages.collect()
}

fn message(worker: ShortStr, grants: &[Grant]) -> Outgoing {
    Outgoing {
        queue: worker,
        mandatory: false,
        message: Message {
            properties: Properties {
                kind: Some(ShortStr::from_static(CREDIT_TYPE)),
                ..Properties::default()
            },
            body: write_grants(grants),
        },
        send_token: SendToken::default(),
    }
}
