//! The messages of one channel that are under way: sent, and not confirmed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use lapin::Confirmation;
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use tokio::time::Instant;

use super::channel::OpenChannel;
use super::confirms::{Confirm, Confirms, Decided, Key};
use super::refusals::Refusals;
use super::unhurried::{Glance, Unhurried};
use super::{broker_error, convert, short};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::{Outgoing, Published, Receipt};

/// How long a channel that is given up waits for the confirms that are on their way to it.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);

/// A message on its way to its confirm.
pub(super) type Confirming = BoxFuture<'static, Confirmed>;

/// What lapin says of a message.
pub(super) struct Confirmed {
    pub(super) sequence: u64,
    /// The message was written as a whole.
    pub(super) written: bool,
    pub(super) confirmation: lapin::Result<Confirmation>,
}

/// What became of a message, and who is to be told.
pub(super) struct Told {
    pub(super) receipt: Arc<dyn Receipt>,
    pub(super) published: Published,
    /// What it took of the room for messages under way.
    pub(super) room: u32,
}

/// When the confirm of a message is to be looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Now,
    /// At its time.
    Later,
}

/// Who waits for the broker's word on a message.
struct Waiting {
    queue: ShortStr,
    receipt: Arc<dyn Receipt>,
    room: u32,
}

impl Waiting {
    fn told(self, published: Published) -> Told {
        Told {
            receipt: self.receipt,
            published,
            room: self.room,
        }
    }
}

#[derive(Default)]
pub(super) struct UnderWay {
    confirms: Confirms,
    waiting: HashMap<u64, Waiting, RandomState>,
    unhurried: Unhurried,
    /// Those that somebody waits for, and that nobody looks after yet.
    fresh: Vec<Confirming>,
    refusals: Refusals,
    /// When the channel ends at the latest, where a queue refuses all that comes by it.
    given_up_at: Option<Instant>,
    /// Why nothing can be sent any more.
    lost: Option<BrokerError>,
    /// Nobody will send any more.
    pub(super) is_left: bool,
}

impl UnderWay {
    /// Hands a message to lapin, and says whether its confirm is to be looked after at once; what comes back is not under way.
    pub(super) fn send(
        &mut self,
        channel: &Arc<OpenChannel>,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        room: u32,
        in_a_row: usize,
    ) -> Result<Look, Told> {
        let Outgoing {
            queue,
            mandatory,
            message,
            departure,
        } = outgoing;
        let waiting = Waiting {
            queue: queue.clone(),
            receipt,
            room,
        };
        let unwritten = |source| Published::Failed {
            source,
            written: false,
        };
        if let Some(reason) = &self.lost {
            return Err(waiting.told(unwritten(reason.clone())));
        }
        if !departure.leave() {
            return Err(waiting.told(Published::Withdrawn));
        }
        let correlation_id = message.properties.correlation_id.clone();
        let key = correlation_id.filter(|_| mandatory).map(|id| (queue.clone(), id));
        let (routing_key, properties) = match (short(queue.as_str()), convert::to_lapin(message.properties)) {
            (Ok(routing_key), Ok(properties)) => (routing_key, properties),
            (Err(source), _) | (_, Err(source)) => return Err(waiting.told(unwritten(source))),
        };
        let sequence = self.confirms.publish(key);
        self.waiting.insert(sequence, waiting);
        let channel = Arc::clone(channel);
        let body = message.body;
        let mut publishing: Confirming = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory,
                ..BasicPublishOptions::default()
            };
            let published = channel
                .basic_publish("".into(), routing_key, options, &body, properties)
                .await;
            // It has been written, and this copy is of no more use.
            drop(body);
            let written = published.is_ok();
            let confirmation = match published {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            Confirmed {
                sequence,
                written,
                confirmation,
            }
        });
        // Whoever looks after it polls it again.
        if let Poll::Ready(confirmed) = publishing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            publishing = Box::pin(std::future::ready(confirmed));
        }
        if in_a_row <= 1 {
            self.fresh.push(publishing);
            return Ok(Look::Now);
        }
        self.unhurried.push(publishing);
        Ok(match self.unhurried.is_look_due(in_a_row) {
            true => Look::Now,
            false => Look::Later,
        })
    }

    /// Those that are to be looked after from now on.
    pub(super) fn take_fresh(&mut self) -> Vec<Confirming> {
        std::mem::take(&mut self.fresh)
    }

    /// Looks at those that nobody looks after.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Told> {
        let confirmed = self.unhurried.look(now);
        self.all_confirmed(confirmed, now)
    }

    /// As [`confirmed`](Self::confirmed), of several.
    pub(super) fn all_confirmed(&mut self, confirmed: Vec<Confirmed>, now: Instant) -> Vec<Told> {
        let told = confirmed
            .into_iter()
            .flat_map(|confirmed| self.confirmed(confirmed, now));
        told.collect()
    }

    /// When to look at them, where there is a time for it.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.unhurried.next_look()
    }

    pub(super) fn given_up_at(&self) -> Option<Instant> {
        self.given_up_at
    }

    pub(super) fn lost(&self) -> Option<&BrokerError> {
        self.lost.as_ref()
    }

    /// Takes in the broker's word on a message.
    pub(super) fn confirmed(&mut self, confirmed: Confirmed, now: Instant) -> Vec<Told> {
        let Confirmed {
            sequence,
            written,
            confirmation,
        } = confirmed;
        let (confirm, returned) = match confirmation {
            Ok(Confirmation::Ack(returned)) => (Confirm::Ack, returned),
            Ok(Confirmation::Nack(returned)) => (Confirm::Nack, returned),
            // Only of a channel that is not in confirm mode, and this one is.
            Ok(Confirmation::NotRequested) => (Confirm::Ack, None),
            Err(error) => return self.failed(sequence, error, written),
        };
        if let Some(Waiting { queue, .. }) = self.waiting.get(&sequence)
            && self.refusals.confirmed(queue, confirm, now)
        {
            self.given_up_at.get_or_insert(now + LAST_CONFIRMS);
        }
        let returned = returned.as_deref().and_then(key);
        let decided = self.confirms.confirm(sequence, confirm, returned, now);
        self.told(decided)
    }

    /// A publish fails only with its channel, which can send nothing more.
    fn failed(&mut self, sequence: u64, error: lapin::Error, written: bool) -> Vec<Told> {
        let reason = broker_error(error);
        // What comes before or after the broker's own reason only says that the channel is closed.
        let source = match (&self.lost, reason) {
            (None | Some(BrokerError::Lost { .. }), reason @ BrokerError::ChannelClosed { .. })
            | (None, reason) => self.lost.insert(reason).clone(),
            (Some(known), _) => known.clone(),
        };
        let failed = self.waiting.remove(&sequence);
        let mut told: Vec<_> = failed
            .into_iter()
            .map(|waiting| {
                waiting.told(Published::Failed {
                    source: source.clone(),
                    written,
                })
            })
            .collect();
        let decided = self.confirms.forget(sequence);
        told.extend(self.told(decided));
        told
    }

    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.confirms.next_overdue()
    }

    /// Decides about those that were confirmed long ago, once all that is known by now was taken in.
    pub(super) fn overdue(&mut self, confirmed: Vec<Confirmed>, now: Instant) -> Vec<Told> {
        let mut told = self.all_confirmed(confirmed, now);
        let confirmed = self.unhurried.glance(Glance::Whole);
        told.extend(self.all_confirmed(confirmed, now));
        let decided = self.confirms.overdue(now);
        told.extend(self.told(decided));
        told
    }

    /// Nothing can be sent any more, nor will anything be heard of what was sent: for this reason, or the broker's own, if that came.
    pub(super) fn end(&mut self, reason: BrokerError) -> (Vec<Told>, BrokerError) {
        let confirmed = self.unhurried.glance(Glance::Whole);
        let mut told = self.all_confirmed(confirmed, Instant::now());
        let reason = self.lost.get_or_insert(reason).clone();
        let decided = self.confirms.end();
        told.extend(self.told(decided));
        told.extend(self.waiting.drain().map(|(_, waiting)| {
            waiting.told(Published::Failed {
                source: reason.clone(),
                written: true,
            })
        }));
        (told, reason)
    }

    /// As [`end`](Self::end), of all messages alike, whatever lapin says of them.
    pub(super) fn abandon(&mut self, reason: BrokerError) -> (Vec<Told>, BrokerError) {
        let reason = self.lost.get_or_insert(reason).clone();
        self.fresh.clear();
        self.unhurried = Unhurried::default();
        let told = self.waiting.drain().map(|(_, waiting)| {
            waiting.told(Published::Failed {
                source: reason.clone(),
                written: true,
            })
        });
        (told.collect(), reason)
    }

    fn told(&mut self, decided: Decided) -> Vec<Told> {
        decided
            .into_iter()
            .filter_map(|(sequence, published)| Some(self.waiting.remove(&sequence)?.told(published)))
            .collect()
    }
}

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderWay")
            .field("messages", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

fn key(returned: &Delivery) -> Option<Key> {
    let queue = ShortStr::new(returned.routing_key.as_str()).ok()?;
    let correlation_id = returned.properties.correlation_id().as_ref()?;
    Some((queue, ShortStr::new(correlation_id.as_str()).ok()?))
}
