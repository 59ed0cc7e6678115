//! The messages of one channel that were sent and whose outcome is not decided yet.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use lapin::Confirmation;
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use lapin::types::AMQPValue;
use tokio::time::Instant;

use super::super::channel::OpenChannel;
use super::super::convert;
use super::super::errors::{broker_error, short};
use super::confirms::{Confirm, Confirms, Decided, ReturnKey};
use super::deferred::{ConfirmFuture, ConfirmReport, DeferredConfirms, PollDepth};
use super::refusals::Refusals;
use crate::error::BrokerError;
use crate::protocol::{COPY_HEADER, ShortStr};
use crate::transport::{ConfirmListener, Outgoing, Published};

/// How long a channel that is given up waits for the last confirms.
const LAST_CONFIRMS_LIMIT: Duration = Duration::from_secs(5);

/// The outcome of a message that is no longer in flight.
pub(super) struct Outcome {
    pub(super) listener: Arc<dyn ConfirmListener>,
    pub(super) published: Published,
    /// The permits that the message took.
    pub(super) permits: u32,
}

/// When the task that waits for confirms has to handle a message that was just sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Now,
    /// At the next poll of [`DeferredConfirms`].
    Later,
}

/// A message that was sent and whose outcome is not decided yet. It may be confirmed already.
struct InFlight {
    queue: ShortStr,
    listener: Arc<dyn ConfirmListener>,
    permits: u32,
}

impl InFlight {
    fn finish(self, published: Published) -> Outcome {
        Outcome {
            listener: self.listener,
            published,
            permits: self.permits,
        }
    }
}

#[derive(Default)]
pub(super) struct InFlightMessages {
    confirms: Confirms,
    messages: HashMap<u64, InFlight, RandomState>,
    deferred: DeferredConfirms,
    /// Confirms that the task will wait for instead of polling them. They stay here until it takes
    /// them.
    awaited: Vec<ConfirmFuture>,
    refusals: Refusals,
    /// The sequence number of the next message.
    next: u64,
    /// The value of `next` at the last call of [`old_messages`](Self::old_messages).
    old_before: u64,
    /// When to close the channel. Set once a queue has nacked everything from it for 10 s.
    close_deadline: Option<Instant>,
    /// Why nothing can be sent any more.
    lost: Option<BrokerError>,
    /// The publisher was dropped, so nothing more will be sent.
    pub(super) is_publisher_dropped: bool,
}

impl InFlightMessages {
    /// Hands a message to lapin. Returns whether the task that waits for confirms must be woken
    /// now.
    ///
    /// # Errors
    ///
    /// The outcome of a message that was not sent.
    pub(super) fn send(
        &mut self,
        channel: &Arc<OpenChannel>,
        exchange: &'static str,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
        permits: u32,
        confirm_interval: usize,
    ) -> Result<Wake, Outcome> {
        let Outgoing {
            queue,
            mandatory,
            message,
            send_token,
        } = outgoing;
        let unsent = |listener, published| Outcome {
            listener,
            published,
            permits,
        };
        let unwritten = |source| Published::Failed {
            source,
            written: false,
        };
        if let Some(reason) = &self.lost {
            return Err(unsent(listener, unwritten(reason.clone())));
        }
        if !send_token.claim() {
            return Err(unsent(listener, Published::Withdrawn));
        }
        let properties = &message.properties;
        let token = properties
            .headers
            .get(COPY_HEADER)
            .and_then(|token| ShortStr::new(token).ok());
        let id = token.or_else(|| properties.correlation_id.clone());
        let key = id.filter(|_| mandatory).map(|id| (queue.clone(), id));
        let (routing_key, properties) = match (short(queue.as_str()), convert::to_lapin(message.properties)) {
            (Ok(routing_key), Ok(properties)) => (routing_key, properties),
            (Err(source), _) | (_, Err(source)) => return Err(unsent(listener, unwritten(source))),
        };
        let channel = Arc::clone(channel);
        let body = message.body;
        let publish = |sequence| -> ConfirmFuture {
            Box::pin(async move {
                let options = BasicPublishOptions {
                    mandatory,
                    ..BasicPublishOptions::default()
                };
                let published = channel
                    .basic_publish(exchange.into(), routing_key, options, &body, properties)
                    .await;
                // lapin does not need the body any more.
                drop(body);
                let written = published.is_ok();
                let confirmation = match published {
                    Ok(confirm) => confirm.await,
                    Err(error) => Err(error),
                };
                // Kept until here: it may hold a permit.
                drop(send_token);
                ConfirmReport {
                    sequence,
                    written,
                    confirmation,
                }
            })
        };
        Ok(self.add(queue, key, listener, permits, confirm_interval, publish))
    }

    /// Adds a message that `publish` hands to lapin. Returns whether the task that waits for
    /// confirms must be woken now.
    pub(super) fn add(
        &mut self,
        queue: ShortStr,
        key: Option<ReturnKey>,
        listener: Arc<dyn ConfirmListener>,
        permits: u32,
        confirm_interval: usize,
        publish: impl FnOnce(u64) -> ConfirmFuture,
    ) -> Wake {
        let sequence = self.confirms.add(key);
        let in_flight = InFlight {
            queue,
            listener,
            permits,
        };
        self.messages.insert(sequence, in_flight);
        self.next = sequence + 1;
        let mut publishing = publish(sequence);
        // lapin queues the message at the first poll. A future must not be polled after it is
        // ready.
        if let Poll::Ready(confirmed) = publishing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            publishing = Box::pin(std::future::ready(confirmed));
        }
        if confirm_interval <= 1 {
            self.awaited.push(publishing);
            return Wake::Now;
        }
        self.deferred.push(publishing);
        if self.deferred.is_poll_due(confirm_interval) {
            Wake::Now
        } else {
            Wake::Later
        }
    }

    /// Returns the listeners of the messages that were in flight at the previous call already.
    pub(super) fn old_messages(&mut self) -> Vec<Arc<dyn ConfirmListener>> {
        let before = std::mem::replace(&mut self.old_before, self.next);
        let old = self.messages.iter().filter(|(sequence, _)| **sequence < before);
        old.map(|(_, message)| Arc::clone(&message.listener)).collect()
    }

    /// Whether nothing more will be sent, and nobody waits for the outcome of any message.
    pub(super) fn has_no_listener(&self) -> bool {
        let mut messages = self.messages.values();
        self.is_publisher_dropped && messages.all(|message| message.listener.is_abandoned())
    }

    /// Takes the confirms that the task waits for from now on.
    pub(super) fn take_awaited(&mut self) -> Vec<ConfirmFuture> {
        std::mem::take(&mut self.awaited)
    }

    /// Polls the deferred confirms, which the task does not wait for.
    pub(super) fn poll_deferred(&mut self, now: Instant) -> Vec<Outcome> {
        let confirmed = self.deferred.poll_now(now);
        self.process_all(confirmed, now)
    }

    /// Processes several reports, each a confirm or an error.
    pub(super) fn process_all(&mut self, reports: Vec<ConfirmReport>, now: Instant) -> Vec<Outcome> {
        let outcomes = reports.into_iter().flat_map(|report| self.process(report, now));
        outcomes.collect()
    }

    /// When to call [`poll_deferred`](Self::poll_deferred). `None` if the task is woken for the
    /// next message.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.deferred.next_poll()
    }

    /// Whether no deferred confirm is outstanding.
    pub(super) fn has_no_deferred(&self) -> bool {
        self.deferred.is_empty()
    }

    pub(super) fn close_deadline(&self) -> Option<Instant> {
        self.close_deadline
    }

    pub(super) fn lost(&self) -> Option<&BrokerError> {
        self.lost.as_ref()
    }

    /// Processes a confirm or an error.
    fn process(&mut self, report: ConfirmReport, now: Instant) -> Vec<Outcome> {
        let ConfirmReport {
            sequence,
            written,
            confirmation,
        } = report;
        let (confirm, returned) = match confirmation {
            Ok(Confirmation::Ack(returned)) => (Confirm::Ack, returned),
            Ok(Confirmation::Nack(returned)) => (Confirm::Nack, returned),
            // Cannot happen: this channel is in confirm mode.
            Ok(Confirmation::NotRequested) => (Confirm::Ack, None),
            Err(error) => return self.process_failure(sequence, error, written),
        };
        let returned = returned.as_deref().and_then(return_key);
        let decided = self.confirms.confirm(sequence, confirm, returned, now);
        if let Some(InFlight { queue, .. }) = self.messages.get(&sequence)
            && self
                .refusals
                .record_and_should_give_up(queue, confirm, self.confirms.sent(), now)
        {
            self.close_deadline.get_or_insert(now + LAST_CONFIRMS_LIMIT);
        }
        self.finish(decided)
    }

    /// A publish fails only with its channel, which can send nothing more.
    fn process_failure(&mut self, sequence: u64, error: lapin::Error, written: bool) -> Vec<Outcome> {
        let reason = broker_error(error);
        // Keep the broker's own reason. Errors before and after it only say that the channel is
        // closed.
        let source = match (&self.lost, reason) {
            (None | Some(BrokerError::Lost { .. }), reason @ BrokerError::ChannelClosed { .. })
            | (None, reason) => self.lost.insert(reason).clone(),
            (Some(known), _) => known.clone(),
        };
        let failed = self.messages.remove(&sequence);
        let failed = failed.map(|message| message.finish(Published::Failed { source, written }));
        let decided = self.confirms.forget(sequence);
        failed.into_iter().chain(self.finish(decided)).collect()
    }

    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.confirms.next_overdue()
    }

    /// Decides about messages that were confirmed long ago, but whose outcome depends on a return
    /// that has not arrived. Before that, processes all confirms that have arrived.
    pub(super) fn decide_overdue(&mut self, confirmed: Vec<ConfirmReport>, now: Instant) -> Vec<Outcome> {
        let mut outcomes = self.process_all(confirmed, now);
        let confirmed = self.deferred.poll(PollDepth::Full);
        outcomes.extend(self.process_all(confirmed, now));
        let decided = self.confirms.decide_overdue(now);
        outcomes.extend(self.finish(decided));
        outcomes
    }

    /// Ends all messages, because nothing can be sent any more and no more confirms will arrive.
    /// Returns their outcomes and the reason: the known one, or else the given one.
    pub(super) fn end(&mut self, reason: BrokerError) -> (Vec<Outcome>, BrokerError) {
        let confirmed = self.deferred.poll(PollDepth::Full);
        let mut outcomes = self.process_all(confirmed, Instant::now());
        let reason = self.lost.get_or_insert(reason).clone();
        let decided = self.confirms.end();
        outcomes.extend(self.finish(decided));
        outcomes.extend(self.fail_all(&reason));
        (outcomes, reason)
    }

    /// Fails all messages, without polling lapin for more confirms. In contrast to
    /// [`end`](Self::end), also fails those that were confirmed but wait for a return.
    pub(super) fn abandon(&mut self, reason: BrokerError) -> (Vec<Outcome>, BrokerError) {
        let reason = self.lost.get_or_insert(reason).clone();
        self.awaited.clear();
        self.deferred = DeferredConfirms::default();
        (self.fail_all(&reason), reason)
    }

    fn fail_all(&mut self, reason: &BrokerError) -> Vec<Outcome> {
        let failed = self.messages.drain().map(|(_, message)| {
            message.finish(Published::Failed {
                source: reason.clone(),
                written: true,
            })
        });
        failed.collect()
    }

    fn finish(&mut self, decided: Decided) -> Vec<Outcome> {
        decided
            .into_iter()
            .filter_map(|(sequence, published)| Some(self.messages.remove(&sequence)?.finish(published)))
            .collect()
    }
}

impl fmt::Debug for InFlightMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightMessages")
            .field("count", &self.messages.len())
            .finish_non_exhaustive()
    }
}

fn return_key(returned: &Delivery) -> Option<ReturnKey> {
    let queue = ShortStr::new(returned.routing_key.as_str()).ok()?;
    let headers = returned.properties.headers().as_ref();
    let token = headers.and_then(|headers| headers.inner().get(COPY_HEADER));
    let id = match token {
        Some(AMQPValue::LongString(token)) => ShortStr::new(std::str::from_utf8(token.as_bytes()).ok()?),
        _ => ShortStr::new(returned.properties.correlation_id().as_ref()?.as_str()),
    };
    Some((queue, id.ok()?))
}
