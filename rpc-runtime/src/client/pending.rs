//! The calls in flight: which reply belongs to which call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::protocol::Message;

/// The calls of one handle that wait for a reply.
///
/// Each has a random correlation id of its own, so a reply reaches its own call or none: late and foreign replies find
/// nobody and are discarded. A call keeps its id and its place however often the link is lost.
#[derive(Debug, Default)]
pub(super) struct Pending {
    calls: Mutex<HashMap<Uuid, oneshot::Sender<Message>>>,
}

impl Pending {
    /// Enters a call.
    pub(super) fn enter(self: &Arc<Self>) -> Ticket {
        let id = Uuid::new_v4();
        let (sender, reply) = oneshot::channel();
        self.lock().insert(id, sender);
        Ticket {
            id,
            reply,
            pending: Arc::clone(self),
        }
    }

    /// Hands a reply to its call. `false` where nobody waits for it: it is late, or not for this process.
    pub(super) fn complete(&self, id: Uuid, reply: Message) -> bool {
        let waiting = self.lock().remove(&id);
        waiting.is_some_and(|call| call.send(reply).is_ok())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<Message>>> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among those in flight; dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Ticket {
    id: Uuid,
    reply: oneshot::Receiver<Message>,
    pending: Arc<Pending>,
}

impl Ticket {
    /// The call's correlation id.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Waits for the reply, for ever if need be. Cancel safe.
    pub(super) async fn reply(&mut self) -> Message {
        match (&mut self.reply).await {
            Ok(reply) => reply,
            // The sender stays in the table for as long as this ticket does, unless it sends.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &'static str) -> Message {
        Message {
            body: text.into(),
            ..Message::default()
        }
    }

    #[tokio::test]
    async fn each_reply_reaches_its_own_call() {
        let pending = Arc::new(Pending::default());
        let mut first = pending.enter();
        let mut second = pending.enter();
        assert!(pending.complete(second.id(), reply("second")));
        assert!(pending.complete(first.id(), reply("first")));
        assert_eq!(first.reply().await, reply("first"));
        assert_eq!(second.reply().await, reply("second"));
    }

    #[test]
    fn late_and_repeated_replies_find_nobody() {
        let pending = Arc::new(Pending::default());
        let ticket = pending.enter();
        let id = ticket.id();
        assert!(pending.complete(id, reply("once")));
        assert!(!pending.complete(id, reply("twice")));
        let ticket = pending.enter();
        let id = ticket.id();
        drop(ticket);
        assert!(!pending.complete(id, reply("late")));
        assert!(pending.lock().is_empty());
    }
}
