//! Tells workers which calls were abandoned: dropped, timed out, or failed although they may run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::in_flight_calls::InFlightCalls;
use super::queued_request::time_to_live;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{
    CANCEL_TYPE, CancelledCall, MAX_BATCH_CALLS, MAX_TIME_TO_LIVE, Message, Properties, ShortStr, write_batch,
};
use crate::transport::{Backoff, Outgoing, Published, Publisher, SendToken, Transport};

/// How many abandoned calls may wait until workers are told. Further ones are not cancelled.
const MAX_QUEUED: usize = 16 * 1024;

/// How long the messages about several abandoned calls may wait for a connection and for their
/// confirms.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// How long no calls are cancelled after the broker refused a message about them: the exchange does
/// not exist, or the user may not publish to it. The broker logs each refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// How long closing a handle waits until workers are told.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The calls that were abandoned and that workers were not told of.
#[derive(Debug, Default)]
pub(super) struct AbandonedCalls {
    queued: Mutex<Vec<AbandonedCall>>,
    added: Notify,
}

/// A call whose request was sent, and whose caller no longer waits.
#[derive(Debug)]
pub(super) struct AbandonedCall {
    pub(super) queue: ShortStr,
    pub(super) id: Uuid,
    pub(super) deadline: Instant,
}

impl AbandonedCalls {
    pub(super) fn add(&self, call: AbandonedCall) {
        let mut queued = self.lock();
        if queued.len() < MAX_QUEUED {
            queued.push(call);
            drop(queued);
            self.added.notify_one();
        }
    }

    /// Takes all calls, and waits for one if there is none. Cancel safe.
    async fn take(&self) -> Vec<AbandonedCall> {
        loop {
            let calls = std::mem::take(&mut *self.lock());
            if !calls.is_empty() {
                return calls;
            }
            self.added.notified().await;
        }
    }

    /// Tells workers of abandoned calls until `shutdown`, and then of all that are in flight.
    pub(super) async fn cancel_all(
        &self,
        transport: Arc<dyn Transport>,
        in_flight: &InFlightCalls,
        shutdown: CancellationToken,
    ) {
        let closing_takes_too_long = async || {
            shutdown.cancelled().await;
            sleep(CLOSE_LIMIT).await;
        };
        let mut sender = CancellationSender {
            transport,
            publisher: None,
            is_refusal_logged: false,
        };
        while let Some(calls) = shutdown.run_until_cancelled(self.take()).await {
            let sent = tokio::select! {
                sent = sender.send(calls) => sent,
                () = closing_takes_too_long() => return,
            };
            if let Err(Refused) = sent {
                shutdown.run_until_cancelled(sleep(REFUSED_PAUSE)).await;
                self.lock().clear();
            }
        }
        // Before those that were added, so that no call is missed which is just being dropped.
        let in_flight = in_flight.sent();
        let mut calls = std::mem::take(&mut *self.lock());
        let now = Instant::now();
        calls.extend(in_flight.iter().map(|call| AbandonedCall {
            queue: call.plan().destination.queue.clone(),
            id: call.id(),
            deadline: now + call.plan().timeout.min(MAX_TIME_TO_LIVE),
        }));
        let _ = timeout(CLOSE_LIMIT, sender.send(calls)).await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<AbandonedCall>> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The broker refused a message to the control exchange.
#[derive(Debug)]
struct Refused;

/// Publishes cancellations. The publisher is opened for the first of them.
struct CancellationSender {
    transport: Arc<dyn Transport>,
    publisher: Option<Arc<dyn Publisher>>,
    is_refusal_logged: bool,
}

impl CancellationSender {
    /// Publishes a message to each queue, or several if there are many calls. While the broker
    /// confirms a message, further calls wait, and share the next one.
    ///
    /// # Errors
    ///
    /// If the broker refused a message for good. Workers do not learn of calls that cannot be
    /// cancelled for another reason within [`SEND_LIMIT`].
    async fn send(&mut self, calls: Vec<AbandonedCall>) -> Result<(), Refused> {
        match timeout(SEND_LIMIT, self.send_all(calls)).await {
            Ok(sent) => sent,
            Err(_) => {
                self.publisher = None;
                Ok(())
            }
        }
    }

    async fn send_all(&mut self, calls: Vec<AbandonedCall>) -> Result<(), Refused> {
        for outgoing in messages(calls, Instant::now()) {
            let mut backoff = Backoff::new();
            while let Err(error) = self.publish(outgoing.clone()).await {
                self.publisher = None;
                if error.is_handle_ended() {
                    return Ok(());
                }
                if !error.is_waited_out() || matches!(error, BrokerError::ChannelClosed { .. }) {
                    self.log_refusal(&error);
                    return Err(Refused);
                }
                backoff.wait().await;
            }
        }
        Ok(())
    }

    async fn publish(&mut self, outgoing: Outgoing) -> Result<(), BrokerError> {
        let publisher = match &self.publisher {
            Some(publisher) => publisher,
            None => self
                .publisher
                .insert(self.transport.open_control_publisher().await?),
        };
        match publisher.publish(outgoing).await {
            Published::Failed { source, .. } => Err(source),
            // If a worker did not get it, its methods run until their deadlines.
            Published::Confirmed | Published::Returned | Published::Refused | Published::Withdrawn => Ok(()),
        }
    }

    fn log_refusal(&mut self, error: &BrokerError) {
        if !std::mem::replace(&mut self.is_refusal_logged, true) {
            let error = Logged(Chain(error));
            tracing::info!(
                %error,
                "cannot cancel dropped calls, whose methods go on: the exchange rpc.control may not exist, or the user has no write permission on it"
            );
        }
    }
}

/// Returns the messages that cancel these calls.
fn messages(calls: Vec<AbandonedCall>, now: Instant) -> Vec<Outgoing> {
    let mut by_queue: HashMap<ShortStr, Vec<CancelledCall>> = HashMap::new();
    for AbandonedCall { queue, id, deadline } in calls {
        let time_left = time_to_live(deadline, now);
        by_queue
            .entry(queue)
            .or_default()
            .push(CancelledCall { id, time_left });
    }
    let mut messages = Vec::with_capacity(by_queue.len());
    for (queue, calls) in by_queue {
        messages.extend(calls.chunks(MAX_BATCH_CALLS).map(|calls| Outgoing {
            queue: queue.clone(),
            mandatory: false,
            message: Message {
                properties: Properties {
                    kind: Some(ShortStr::from_static(CANCEL_TYPE)),
                    expiration: Some(SEND_LIMIT),
                    ..Properties::default()
                },
                body: write_batch(calls),
            },
            send_token: SendToken::default(),
        }));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::read_batch;

    fn call(queue: &'static str, id: u128, deadline: Instant) -> AbandonedCall {
        AbandonedCall {
            queue: ShortStr::from_static(queue),
            id: Uuid::from_u128(id),
            deadline,
        }
    }

    #[test]
    fn calls_of_one_queue_share_a_message() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let calls = vec![call("a", 1, now + second), call("b", 2, now), call("a", 3, now)];
        let mut messages = messages(calls, now);
        messages.sort_by_key(|message| message.queue.as_str().to_owned());
        let read = |message: &Outgoing| {
            let calls = read_batch::<CancelledCall>(&message.message.body).unwrap();
            let calls = calls.iter().map(|call| (call.id.as_u128(), call.time_left));
            (message.queue.to_string(), calls.collect::<Vec<_>>())
        };
        let least = Duration::from_millis(1);
        let [of_a, of_b] = &messages[..] else {
            panic!("{messages:?}");
        };
        assert_eq!(read(of_a), ("a".to_owned(), vec![(1, second), (3, least)]));
        assert_eq!(read(of_b), ("b".to_owned(), vec![(2, least)]));
    }

    #[tokio::test]
    async fn the_queue_of_abandoned_calls_is_bounded() {
        let abandoned = AbandonedCalls::default();
        let now = Instant::now();
        for id in 0..MAX_QUEUED as u128 + 5 {
            abandoned.add(call("a", id, now));
        }
        let calls = abandoned.take().await;
        assert_eq!(calls.len(), MAX_QUEUED);
        let messages = messages(calls, now);
        assert_eq!(messages.len(), MAX_QUEUED / MAX_BATCH_CALLS);
        let read = |message: &Outgoing| read_batch::<CancelledCall>(&message.message.body);
        assert!(messages.iter().all(|message| read(message).is_ok()));
    }
}
