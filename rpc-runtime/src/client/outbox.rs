//! How requests leave: through the link's publisher, each by itself or several in one message.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::destination::Destination;
use super::pending::Slot;
use crate::codec::Codec;
use crate::error::BrokerError;
use crate::packing::{Load, Packer, gather};
use crate::protocol::{
    MAX_PACKED, MAX_PART_BYTES, Message, PACKED, PackedCall, Properties, Request, ShortStr, pack,
};
use crate::transport::{Departure, Outgoing, Published, Publisher};

/// A request that is to leave.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) request: Request,
    pub(super) destination: Arc<Destination>,
    /// Whom to tell what became of it.
    pub(super) slot: Arc<Slot>,
    pub(super) departure: Departure,
}

/// Where requests are put, to leave by one publisher. As many wait here as calls are in flight, which their clients limit.
#[derive(Debug, Clone)]
pub(super) struct Outbox(UnboundedSender<Parcel>);

impl Outbox {
    /// An outbox, and the task that empties it, which ends with the last of its clones.
    pub(super) fn new(publisher: Arc<dyn Publisher>) -> (Self, impl Future<Output = ()>) {
        let (sender, inbox) = unbounded_channel();
        (Self(sender), Task::new(publisher).run(inbox))
    }

    /// Has a request leave; its call is told what becomes of it.
    pub(super) fn post(&self, parcel: Parcel) {
        if let Err(returned) = self.0.send(parcel) {
            // The task has ended with its runtime.
            returned.0.slot.published(Published::Failed {
                source: BrokerError::Closed,
                written: false,
            });
        }
    }
}

/// Calls that can leave in one message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lane {
    queue: ShortStr,
    codec: Codec,
    priority: Option<u8>,
    /// In milliseconds, roughly.
    time_to_live: u32,
}

struct Task {
    publisher: Arc<dyn Publisher>,
    packer: Packer<Lane, Parcel>,
    under_way: FuturesUnordered<BoxFuture<'static, Option<Lane>>>,
}

impl Task {
    fn new(publisher: Arc<dyn Publisher>) -> Self {
        Self {
            publisher,
            packer: Packer::new(),
            under_way: FuturesUnordered::new(),
        }
    }

    async fn run(mut self, mut inbox: UnboundedReceiver<Parcel>) {
        let publisher = Arc::clone(&self.publisher);
        let mut gathered = Vec::new();
        let mut most = MAX_PACKED;
        let mut is_open = true;
        while is_open || !gathered.is_empty() || !self.under_way.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.under_way.next() => if let Some(lane) = done {
                    self.packer.done(&lane);
                },
                // What waits here while the broker reads nothing can still be withdrawn.
                () = publisher.ready(), if !gathered.is_empty() || self.packer.has_ready() => {
                    self.sort(&mut gathered);
                    self.send_packed();
                }
                received = inbox.recv_many(&mut gathered, MAX_PACKED), if is_open => {
                    is_open = received > 0;
                    gather(&mut inbox, &mut gathered).await;
                    if gathered.len() > most {
                        gathered.retain(|parcel: &Parcel| !parcel.departure.is_withdrawn());
                        most = MAX_PACKED.max(2 * gathered.len());
                    }
                }
            }
        }
    }

    /// Sends what leaves by itself, and puts what can leave with others where it belongs.
    fn sort(&mut self, gathered: &mut Vec<Parcel>) {
        for parcel in gathered.drain(..) {
            match lane(&parcel) {
                Some((lane, load)) => self.packer.push(lane, parcel, load),
                None => self.send_alone(parcel, None),
            }
        }
    }

    fn send_alone(&mut self, parcel: Parcel, lane: Option<Lane>) {
        let Parcel {
            request,
            destination,
            slot,
            departure,
        } = parcel;
        let publisher = Arc::clone(&self.publisher);
        self.under_way.push(Box::pin(async move {
            let outgoing = Outgoing {
                queue: destination.queue.clone(),
                mandatory: true,
                message: request.into_message(),
                departure,
            };
            slot.published(publisher.publish(outgoing).await);
            lane
        }));
    }

    /// Sends what has gathered, as far as it may leave.
    fn send_packed(&mut self) {
        while let Some((lane, mut parcels)) = self.packer.next() {
            parcels.retain(|parcel| !parcel.departure.is_withdrawn());
            match parcels.len() {
                0 => self.packer.done(&lane),
                1 => {
                    for parcel in parcels {
                        self.send_alone(parcel, Some(lane.clone()));
                    }
                }
                _ => self.send_together(parcels, lane),
            }
        }
    }

    fn send_together(&mut self, mut parcels: Vec<Parcel>, lane: Lane) {
        parcels.retain(|parcel| parcel.departure.leave());
        let Some(message) = message(&parcels) else {
            self.packer.done(&lane);
            return;
        };
        let outgoing = Outgoing {
            queue: lane.queue.clone(),
            mandatory: true,
            message,
            departure: Departure::default(),
        };
        let slots: Vec<_> = parcels.into_iter().map(|parcel| parcel.slot).collect();
        for slot in &slots {
            slot.packed();
        }
        let publisher = Arc::clone(&self.publisher);
        self.under_way.push(Box::pin(async move {
            let published = publisher.publish(outgoing).await;
            for slot in slots {
                slot.published(published.clone());
            }
            Some(lane)
        }));
    }
}

/// With what a request can leave, and how much it takes of a message; nothing where it leaves by itself.
fn lane(parcel: &Parcel) -> Option<(Lane, Load)> {
    let Parcel {
        request,
        destination,
        slot,
        ..
    } = parcel;
    let wanted = destination.wanted(slot.method());
    let size = request.arguments.len() + request.headers.bytes() + 16 * request.headers.len();
    if wanted < 2 || request.reply_to.is_none() || request.codec == Codec::Text || size > MAX_PART_BYTES {
        return None;
    }
    let time_to_live = request.time_to_live.unwrap_or(Duration::MAX);
    let lane = Lane {
        queue: destination.packed_queue.clone()?,
        codec: request.codec,
        priority: request.priority,
        time_to_live: roughly(u32::try_from(time_to_live.as_millis()).unwrap_or(u32::MAX)),
    };
    Some((lane, Load::new(size + slot.method().len() + OVERHEAD, wanted)))
}

/// What an id, the time and lengths add to a call, at most.
const OVERHEAD: usize = 64;

/// The number's first six binary digits: what is alike by it differs by less than a thirtieth.
fn roughly(number: u32) -> u32 {
    let behind = (u32::BITS - number.leading_zeros()).saturating_sub(6);
    number >> behind << behind
}

/// A message of several calls. It lives no longer than the shortest of them, which are alike: what has expired must not be
/// run, and how long a message waited in the queue is not known to who takes it out.
fn message(parcels: &[Parcel]) -> Option<Message> {
    let first = &parcels.first()?.request;
    let calls: Vec<_> = parcels
        .iter()
        .map(|Parcel { request, slot, .. }| PackedCall {
            id: slot.id(),
            method: ShortStr::from_static(slot.method()),
            time_to_live: request.time_to_live,
            arguments: request.arguments.clone(),
            headers: request.headers.clone(),
        })
        .collect();
    let shortest = parcels
        .iter()
        .filter_map(|parcel| parcel.request.time_to_live)
        .min();
    Some(Message {
        properties: Properties {
            kind: Some(ShortStr::from_static(PACKED)),
            content_type: Some(ShortStr::from_static(first.codec.content_type())),
            // No call's own, but a name by which the broker's word on the message is recognised.
            correlation_id: first.correlation_id.clone(),
            reply_to: first.reply_to.clone(),
            expiration: shortest,
            priority: first.priority,
            app_id: first.app_id.clone(),
            user_id: first.user_id.clone(),
            ..Properties::default()
        },
        body: pack(&calls),
    })
}
