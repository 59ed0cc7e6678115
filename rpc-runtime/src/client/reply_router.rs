//! Hands replies to the calls that wait for them.

use futures_util::{FutureExt, StreamExt};
use uuid::Uuid;

use super::in_flight_calls::InFlightCalls;
use crate::error::BrokerError;
use crate::protocol::{
    BATCH_HEADER, BATCH_TYPE, BadReply, BatchedReply, Malformed, Message, content, read_batch,
};
use crate::transport::{Delivery, Subscription};

/// At most this many deliveries are acknowledged together.
const MAX_PER_ACK: u32 = 256;

/// Hands the replies in a delivery, and in those that have already arrived after it, to their
/// calls, up to [`MAX_PER_ACK`] deliveries. Acknowledges the deliveries together, and returns their
/// number. `first` is what the consumer has just yielded.
///
/// # Errors
///
/// If the consumer has ended, so that no more replies will arrive. Then no delivery is
/// acknowledged, not even those whose replies have reached their calls.
pub(super) async fn route_available(
    first: Option<Result<Delivery, BrokerError>>,
    consumer: &mut Subscription,
    in_flight: &InFlightCalls,
) -> Result<u32, BrokerError> {
    // Deliveries end if the broker cancels the consumer, because its queue was deleted.
    let cancelled = || BrokerError::Lost { source: None };
    let mut last = route(in_flight, first.ok_or_else(cancelled)??);
    let mut routed = 1;
    while routed < MAX_PER_ACK
        && let Some(next) = consumer.deliveries.next().now_or_never()
    {
        last = route(in_flight, next.ok_or_else(cancelled)??);
        routed += 1;
    }
    consumer.control.ack_up_to(last);
    Ok(routed)
}

/// Hands a delivery, which may be a batch of replies, to its calls. Counts the replies that no call
/// waits for. Returns the delivery's tag.
fn route(in_flight: &InFlightCalls, delivery: Delivery) -> u64 {
    let message = delivery.message;
    // A batch has this type, and no correlation id. The type alone is not enough: a worker without
    // this library may copy the type of a batch of requests into a single reply, which has a
    // correlation id.
    let is_batch = message.properties.correlation_id.is_none()
        && message
            .properties
            .kind
            .as_ref()
            .is_some_and(|kind| kind.as_str() == BATCH_TYPE);
    let discarded = match delivery.malformed {
        Some(malformed) => route_malformed(in_flight, &message, malformed, is_batch),
        None if is_batch => route_batch(in_flight, &message),
        None if route_single(in_flight, message) => 0,
        None => 1,
    };
    if discarded > 0 {
        in_flight.record_discarded(discarded);
    }
    delivery.tag
}

/// Hands a single reply, a message of a stream, or the batch size for a one-way request to its
/// call. Returns `false` if no call waits for it.
fn route_single(in_flight: &InFlightCalls, message: Message) -> bool {
    let batch_size = message
        .properties
        .headers
        .get(BATCH_HEADER)
        .and_then(|batch_size| batch_size.parse().ok())
        .unwrap_or(0);
    call_id(&message).is_some_and(|id| in_flight.complete(id, message, batch_size))
}

/// Hands the replies of a batch to their calls, or fails the calls if their codec is not supported.
/// Returns how many replies no call waits for; one if the batch cannot be decoded.
pub(super) fn route_batch(in_flight: &InFlightCalls, message: &Message) -> usize {
    let Ok(replies) = read_batch::<BatchedReply>(&message.body) else {
        return 1;
    };
    match content::codec_of(&message.properties) {
        Ok(codec) => in_flight.complete_all(replies, codec),
        Err(unsupported) => {
            let ids = replies.into_iter().map(|reply| reply.id);
            fail_all(in_flight, ids, || BadReply::Content(unsupported.clone()))
        }
    }
}

/// Logs a malformed message, and fails the calls that it answers. Returns how many of its replies
/// no call waits for; one if the message does not say which calls it answers.
pub(super) fn route_malformed(
    in_flight: &InFlightCalls,
    message: &Message,
    malformed: Malformed,
    is_batch: bool,
) -> usize {
    in_flight.log_malformed(malformed);
    let ids: Option<Vec<_>> = if is_batch {
        let replies = read_batch::<BatchedReply>(&message.body).ok();
        replies.map(|replies| replies.into_iter().map(|reply| reply.id).collect())
    } else {
        call_id(message).map(|id| vec![id])
    };
    ids.map_or(1, |ids| {
        fail_all(in_flight, ids, || BadReply::Malformed(malformed))
    })
}

/// Fails the calls with these ids. Returns for how many of the ids no call waits.
fn fail_all(
    in_flight: &InFlightCalls,
    ids: impl IntoIterator<Item = Uuid>,
    reason: impl Fn() -> BadReply,
) -> usize {
    let is_discarded = |id: &Uuid| !in_flight.fail(*id, reason());
    ids.into_iter().filter(is_discarded).count()
}

/// Returns the id of the call that a reply answers. `None` if its correlation id is no UUID.
fn call_id(message: &Message) -> Option<Uuid> {
    let id = message.properties.correlation_id.as_ref()?;
    Uuid::parse_str(id.as_str()).ok()
}
