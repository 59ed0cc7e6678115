//! A reply that is sent in a message of its own.

use std::time::Duration;

use tokio::time::Instant;

use super::pending_acks::PendingAcks;
use super::reply_channel::{ReplyChannel, SendOutcome};
use crate::protocol::{BATCH_HEADER, Fault, FaultCode, Reply, ShortStr, WORKER_HEADER};
use crate::service::ReplyTo;
use crate::telemetry::{Event, count};
use crate::transport::Outgoing;

/// How long a reply may wait for a connection even if its caller's deadline has passed. Some
/// callers wait for longer than the expiration of their request.
const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// How long a reply may wait if it is not known when its caller gives up.
const UNKNOWN_WAIT: Duration = Duration::from_secs(60 * 60);

/// A reply, and the ack of its request.
#[derive(Debug)]
pub(super) struct OutgoingReply {
    pub(super) to: ReplyTo,
    pub(super) reply: Reply,
    /// How many calls the caller should put into one batch. 0 gives no advice.
    pub(super) batch_size: u16,
    /// When the caller gives up, or later: at the end of a stream, and for a reply that was taken
    /// from a batch. `None` if that is not known.
    pub(super) deadline: Option<Instant>,
    pub(super) acks: PendingAcks,
    /// Whether a channel on which it was sent was closed, perhaps because of this reply.
    pub(super) may_have_closed_channel: bool,
}

impl OutgoingReply {
    pub(super) fn message(&self) -> Outgoing {
        outgoing(self.reply.clone(), self.batch_size, &self.to)
    }

    /// Sends the reply until the broker confirms or refuses it, or its time is over. If it cannot
    /// be sent, or closes its channels, sends a fault instead. Then acks its request, unless the
    /// handle was closed.
    pub(super) async fn send(self, channel: &ReplyChannel) {
        let deadline = Some(give_up_at(self.deadline));
        match channel
            .send(self.message(), deadline, self.may_have_closed_channel)
            .await
        {
            // `Unroutable` cannot happen, because replies are not mandatory.
            Ok(SendOutcome::Confirmed | SendOutcome::Unroutable) => return self.acks.ack(),
            Ok(SendOutcome::Expired) => return self.expire(channel),
            Ok(SendOutcome::Refused) => return self.end_refused(channel),
            Ok(SendOutcome::Unsendable(error)) => {
                count(Event::ReplyLost { reason: "unsendable" });
                channel.log.unsendable(&error);
            }
            // The handle was closed, so the broker delivers the request again.
            Err(_) => return,
        }
        let may_have_closed_channel = false;
        let sending = channel.send(self.fault_instead(), deadline, may_have_closed_channel);
        // If the fault is not confirmed either, nothing is left to send.
        if sending.await.is_ok() {
            self.acks.ack();
        }
    }

    /// Returns the fault that is sent instead of a reply that the broker does not take.
    fn fault_instead(&self) -> Outgoing {
        let message = "the method ran, and the broker refuses its reply, which may be too large";
        let fault = Fault::new(FaultCode::ReplyTooLarge, message);
        let mut fault = Reply::fault(self.reply.codec, &fault);
        // If this ends a stream, its caller ignores a fault that does not say who sends it.
        if let Some(worker) = self.reply.headers.get(WORKER_HEADER) {
            let name = ShortStr::from_static(WORKER_HEADER);
            fault.headers.insert(name, worker.to_owned());
        }
        outgoing(fault, self.batch_size, &self.to)
    }

    /// Acks the request of a reply that was not sent or not confirmed in time. Counts and logs
    /// that.
    pub(super) fn expire(self, channel: &ReplyChannel) {
        count(Event::ReplyLost {
            reason: "no_connection",
        });
        channel.log.expired();
        self.acks.ack();
    }

    /// Acks the request of a reply that the broker refused. Counts and logs that.
    pub(super) fn end_refused(self, channel: &ReplyChannel) {
        count(Event::ReplyLost { reason: "refused" });
        channel.log.refused();
        self.acks.ack();
    }
}

fn outgoing(reply: Reply, batch_size: u16, to: &ReplyTo) -> Outgoing {
    let mut message = to.message(reply);
    if batch_size > 0 {
        let name = ShortStr::from_static(BATCH_HEADER);
        message.properties.headers.insert(name, batch_size.to_string());
    }
    Outgoing {
        queue: to.address.clone(),
        mandatory: false,
        message,
        send_token: None,
    }
}

/// Returns when to give up a reply that is ready now and has not left by then. `deadline` is when
/// its caller gives up, if that is known.
pub(super) fn give_up_at(deadline: Option<Instant>) -> Instant {
    match deadline {
        Some(deadline) => with_grace_period(deadline),
        None => Instant::now() + UNKNOWN_WAIT,
    }
}

/// Returns the time until which a reply that is ready now may wait for a connection: its deadline,
/// or the end of the grace period if that is later.
pub(super) fn with_grace_period(deadline: Instant) -> Instant {
    deadline.max(Instant::now() + GRACE_PERIOD)
}
