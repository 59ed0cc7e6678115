//! Publishes to the control exchange what workers are to be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::control_messages::{AbandonedCall, ControlMessage, SEND_LIMIT, cancellations};
use super::in_flight_calls::InFlightCalls;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::MAX_TIME_TO_LIVE;
use crate::transport::{Backoff, Published, Publisher, Transport};

/// How long nothing more is published after the broker refused a message: the exchange does not
/// exist, or the user may not publish to it. The broker logs each refusal. A worker waits longer
/// than this for credit.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// How long closing a handle waits until workers are told of the calls that end with it.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Publishes the messages that cancel calls, and those that grant credit. Neither kind waits for
/// the confirms of the other.
pub(super) struct ControlSender<'a> {
    transport: &'a dyn Transport,
    in_flight: &'a InFlightCalls,
    shutdown: &'a CancellationToken,
    /// Opened for the first message.
    publisher: Mutex<Option<Arc<dyn Publisher>>>,
    is_refusal_logged: AtomicBool,
}

/// Messages to the control exchange fail, and will until someone acts: usually, the broker closed
/// the channel. Not [`Published::Refused`], the negative confirm of a single message.
struct Refused;

impl<'a> ControlSender<'a> {
    pub(super) fn new(
        transport: &'a dyn Transport,
        in_flight: &'a InFlightCalls,
        shutdown: &'a CancellationToken,
    ) -> Self {
        Self {
            transport,
            in_flight,
            shutdown,
            publisher: Mutex::new(None),
            is_refusal_logged: AtomicBool::new(false),
        }
    }

    /// Publishes until the shutdown. Then cancels the calls in flight whose requests were sent,
    /// within [`CLOSE_LIMIT`].
    pub(super) async fn run(&self) {
        // An earlier run may have panicked during a pause.
        self.in_flight.control_messages.resume();
        let cancelling = async {
            self.send_each(|| self.in_flight.control_messages.next_cancellations())
                .await;
            // Read before the abandoned calls, so that a call that is dropped meanwhile is not
            // missed.
            let sent = self.in_flight.sent_calls();
            let mut calls = self.in_flight.control_messages.take_abandoned();
            let now = Instant::now();
            calls.extend(sent.iter().map(|call| AbandonedCall {
                key: call.plan().destination.queue.clone(),
                id: call.id(),
                // The latest possible deadline: it is not known here when the call began.
                deadline: now + call.plan().timeout.min(MAX_TIME_TO_LIVE),
            }));
            let _ = self.send(cancellations(calls, now)).await;
        };
        let granting = self.send_each(|| self.in_flight.control_messages.next_grants());
        let closing_takes_too_long = async {
            self.shutdown.cancelled().await;
            sleep(CLOSE_LIMIT).await;
        };
        tokio::select! {
            _ = async { tokio::join!(cancelling, granting) } => {}
            () = closing_takes_too_long => {}
        }
    }

    /// Sends the messages that `next` returns, until the shutdown. Pauses after a refusal. While
    /// messages wait for their confirms, what else workers are to be told is collected for `next`.
    async fn send_each<F: Future<Output = Vec<ControlMessage>>>(&self, next: impl Fn() -> F) {
        while let Some(messages) = self.shutdown.run_until_cancelled(next()).await {
            match timeout(SEND_LIMIT, self.send(messages)).await {
                Ok(Ok(())) => {}
                Ok(Err(Refused)) => {
                    self.in_flight.control_messages.pause();
                    self.shutdown.run_until_cancelled(sleep(REFUSED_PAUSE)).await;
                    self.in_flight.control_messages.resume();
                }
                // The messages that are left are old by now. A worker that gets no credit asks for
                // it, and methods whose cancellations are lost run until their deadlines. The next
                // messages get another publisher.
                Err(_) => *self.publisher.lock().await = None,
            }
        }
    }

    /// Publishes the messages one after another. Waits while there is no connection, and stops with
    /// `Ok` once the handle has ended.
    async fn send(&self, messages: Vec<ControlMessage>) -> Result<(), Refused> {
        for message in messages {
            let mut backoff = Backoff::new();
            while let Err(error) = self.publish(&message).await {
                if error.is_handle_ended() {
                    return Ok(());
                }
                let is_channel_closed = matches!(error, BrokerError::ChannelClosed { .. });
                // The broker closes the channel if it refuses a message.
                if is_channel_closed || !error.is_waited_out() {
                    self.log_refusal(&error);
                    return Err(Refused);
                }
                backoff.wait().await;
            }
        }
        Ok(())
    }

    /// Publishes a message. If that fails, the next attempt opens another publisher. If the broker
    /// returns the message, its grants are sent again later.
    async fn publish(&self, message: &ControlMessage) -> Result<(), BrokerError> {
        let publisher = self.publisher().await?;
        match publisher.publish(message.outgoing.clone()).await {
            Published::Failed { source, .. } => {
                let mut current = self.publisher.lock().await;
                current.take_if(|current| Arc::ptr_eq(current, &publisher));
                Err(source)
            }
            Published::Returned => {
                let is_over = |id| !self.in_flight.contains(id);
                self.in_flight.control_messages.grant_again(message, is_over);
                Ok(())
            }
            // A single message that a queue did not take (`Refused`) is not sent again.
            Published::Confirmed | Published::Refused | Published::Withdrawn => Ok(()),
        }
    }

    /// Returns the publisher. Opens one if there is none.
    async fn publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let mut publisher = self.publisher.lock().await;
        let publisher = match &*publisher {
            Some(publisher) => publisher,
            None => publisher.insert(self.transport.open_control_publisher().await?),
        };
        Ok(Arc::clone(publisher))
    }

    /// Logs a refusal, the first time.
    fn log_refusal(&self, error: &BrokerError) {
        if !self.is_refusal_logged.swap(true, Ordering::Relaxed) {
            let error = Logged(Chain(error));
            tracing::warn!(
                %error,
                "cannot cancel dropped calls, whose methods go on, or grant credit to streams, which stop: the exchange rpc.control may not exist, or the user has no write permission on it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use uuid::Uuid;

    use super::super::in_flight_calls::tests::new_call;
    use super::*;
    use crate::protocol::{CREDIT_TYPE, Grant, ShortStr, Volume};
    use crate::transport::ControlQueue;
    use crate::transport::memory::{InProcessBroker, MemoryTransport};

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_connects_again_gets_its_credit_soon() {
        let transport = MemoryTransport::new(&InProcessBroker::new());
        let in_flight = InFlightCalls::default();
        let (call, shutdown) = (new_call(), CancellationToken::new());
        let _guard = in_flight.insert(&call);
        let worker = ShortStr::from_uuid(Uuid::new_v4());
        let (id, credit) = (call.id(), Volume::MAX);
        in_flight
            .control_messages
            .grant(worker.clone(), Grant { id, credit });
        let sender = ControlSender::new(&transport, &in_flight, &shutdown);
        let connecting = async {
            sleep(Duration::from_secs(1)).await;
            let queue = ControlQueue {
                keys: Arc::new([worker]),
                prefetch: 1,
                time_to_live: SEND_LIMIT,
                max_messages: 1,
                max_bytes: 1000,
                refuses_excess: false,
            };
            let mut subscription = transport.open_control(&queue).await.unwrap();
            subscription.deliveries.next().await
        };
        let arrived = tokio::select! {
            () = sender.run() => panic!("it goes on"),
            arrived = timeout(Duration::from_secs(2), connecting) => arrived.expect("in time"),
        };
        let message = arrived.unwrap().unwrap().message;
        assert_eq!(message.properties.kind, Some(ShortStr::from_static(CREDIT_TYPE)));
    }
}
