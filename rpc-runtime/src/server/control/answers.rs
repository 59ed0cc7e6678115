//! Runs the methods of control messages, and replies.

use std::sync::Arc;

use tokio::time::Instant;

use crate::protocol::{Fault, FaultCode, Reply, ShortStr, WORKER_HEADER};
use crate::server::reply_channel::{ReplyChannel, SendOutcome};
use crate::server::worker_identity::WorkerIdentity;
use crate::service::{Decision, Executor, ForbiddenReplyAddress, ReplyTo, RequestLabel, RequestSource};
use crate::telemetry::{Event, count};
use crate::transport::Outgoing;

/// Answers control messages.
pub(super) struct Answers {
    pub(super) channel: Arc<ReplyChannel>,
    pub(super) identity: Arc<WorkerIdentity>,
    /// Whether replies say more about the worker than its id. Refusals never do.
    pub(super) describes_itself: bool,
}

/// The reply to a control message.
pub(super) struct ControlReply {
    reply: Reply,
    to: ReplyTo,
    /// The header that identifies the worker.
    worker: String,
    /// Whether a metric counts it if it is lost.
    is_counted: bool,
}

impl ControlReply {
    /// Returns the message of this reply, or of a fault instead of it.
    fn message(&self, mut reply: Reply) -> Outgoing {
        let name = ShortStr::from_static(WORKER_HEADER);
        reply.headers.insert(name, self.worker.clone());
        Outgoing {
            message: self.to.message(reply),
            queue: self.to.address.clone(),
            mandatory: false,
            send_token: None,
        }
    }

    pub(super) fn count_lost(&self, reason: &'static str) {
        if self.is_counted {
            count(Event::ReplyLost { reason });
        }
    }
}

impl Answers {
    /// Runs the method, unless it is refused. Returns the reply. `None` if the sender expects none,
    /// or its reply address is forbidden.
    pub(super) async fn execute(
        &self,
        queue: &str,
        executor: &Executor,
        decided: Result<Decision<'_>, ForbiddenReplyAddress>,
        label: &RequestLabel,
    ) -> Option<ControlReply> {
        // Lost answers to discovery are not counted, because anyone may ask for them.
        let is_counted = executor.source() == RequestSource::Queue;
        let decision = match decided {
            Ok(decision) => decision,
            Err(forbidden) => {
                if is_counted {
                    let code = "reply_address";
                    count(Event::RequestRefused { queue, code });
                }
                executor.log.reply_address_forbidden(&forbidden);
                return None;
            }
        };
        let response = executor.execute(queue, decision, label, Instant::now()).await;
        // A sender that is refused learns only the id of the worker.
        let describes_itself = self.describes_itself && !response.is_refused;
        Some(ControlReply {
            reply: response.reply,
            to: response.reply_to?,
            worker: self.identity.header(describes_itself),
            is_counted,
        })
    }

    /// Sends a reply, and gives it up at `until`. If it cannot be sent, sends a fault instead. If
    /// it is lost, its caller misses one answer of many, so the method does not run again for that.
    pub(super) async fn reply(&self, reply: ControlReply, until: Instant) {
        let may_have_closed_channel = false;
        let send = |to_send| {
            let message = reply.message(to_send);
            self.channel.send(message, Some(until), may_have_closed_channel)
        };
        let reason = match send(reply.reply.clone()).await {
            Ok(SendOutcome::Confirmed | SendOutcome::Unroutable) | Err(_) => return,
            Ok(SendOutcome::Unsendable(error)) => {
                self.channel.log.unsendable(&error);
                let message = "the method ran, and the broker refuses its reply, which may be too large";
                let fault = Fault::new(FaultCode::ReplyTooLarge, message);
                let _ = send(Reply::fault(reply.reply.codec, &fault)).await;
                "unsendable"
            }
            Ok(SendOutcome::Refused) => "refused",
            Ok(SendOutcome::Expired) => "no_connection",
        };
        reply.count_lost(reason);
    }
}
