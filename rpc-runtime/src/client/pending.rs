//! The calls in flight: which reply belongs to which call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::error::BrokerError;
use crate::protocol::Message;

/// The calls that wait for a reply at one reply address.
///
/// Each has a random correlation id of its own, so a reply reaches its own call or none: late and foreign replies find
/// nobody and are discarded.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(HashMap<Uuid, oneshot::Sender<Message>>),
    /// The reply address is gone: no reply can come any more.
    Lost(BrokerError),
}

impl Default for State {
    fn default() -> Self {
        Self::Open(HashMap::new())
    }
}

impl Pending {
    /// Enters a call.
    ///
    /// # Errors
    ///
    /// Where the reply address is gone.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Ticket, BrokerError> {
        let id = Uuid::new_v4();
        let (sender, reply) = oneshot::channel();
        match &mut *self.lock() {
            State::Open(calls) => calls.insert(id, sender),
            State::Lost(reason) => return Err(reason.clone()),
        };
        Ok(Ticket {
            id,
            reply,
            pending: Arc::clone(self),
        })
    }

    /// Hands a reply to its call. `false` where nobody waits for it: it is late, or not for this process.
    pub(super) fn complete(&self, id: Uuid, reply: Message) -> bool {
        let waiting = match &mut *self.lock() {
            State::Open(calls) => calls.remove(&id),
            State::Lost(_) => None,
        };
        waiting.is_some_and(|call| call.send(reply).is_ok())
    }

    /// Ends all calls, and all that would be entered from now on, with this reason.
    pub(super) fn lose(&self, reason: BrokerError) {
        *self.lock() = State::Lost(reason);
    }

    fn leave(&self, id: Uuid) {
        if let State::Open(calls) = &mut *self.lock() {
            calls.remove(&id);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        match &*self.lock() {
            State::Open(calls) => calls.len(),
            State::Lost(_) => 0,
        }
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

    /// Waits for the reply. Cancel safe.
    ///
    /// # Errors
    ///
    /// Where the reply address was lost first.
    pub(super) async fn reply(&mut self) -> Result<Message, BrokerError> {
        match (&mut self.reply).await {
            Ok(reply) => Ok(reply),
            // The sender goes without sending only when the whole table is lost.
            Err(_) => Err(match &*self.pending.lock() {
                State::Lost(reason) => reason.clone(),
                State::Open(_) => BrokerError::Lost { source: None },
            }),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pending.leave(self.id);
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
        let mut first = pending.enter().unwrap();
        let mut second = pending.enter().unwrap();
        assert!(pending.complete(second.id(), reply("second")));
        assert!(pending.complete(first.id(), reply("first")));
        assert_eq!(first.reply().await.unwrap(), reply("first"));
        assert_eq!(second.reply().await.unwrap(), reply("second"));
    }

    #[test]
    fn late_and_repeated_replies_find_nobody() {
        let pending = Arc::new(Pending::default());
        let ticket = pending.enter().unwrap();
        let id = ticket.id();
        assert!(pending.complete(id, reply("once")));
        assert!(!pending.complete(id, reply("twice")));
        let ticket = pending.enter().unwrap();
        let id = ticket.id();
        drop(ticket);
        assert!(!pending.complete(id, reply("late")));
        assert_eq!(pending.len(), 0);
    }

    #[tokio::test]
    async fn a_lost_address_ends_all_calls_and_refuses_new_ones() {
        let pending = Arc::new(Pending::default());
        let mut ticket = pending.enter().unwrap();
        pending.lose(BrokerError::Closed);
        assert!(matches!(ticket.reply().await, Err(BrokerError::Closed)));
        assert!(matches!(pending.enter(), Err(BrokerError::Closed)));
    }
}
