//! A handle's connection to the in-process broker: it can be closed, and the simulation cuts, blocks and slows it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::InProcessBroker;
use super::hub::ConsumerId;
#[cfg(test)]
use super::road::simulated::Road;
use crate::error::BrokerError;
use crate::sync::watch;

#[derive(Debug)]
pub(super) struct Wire {
    state: watch::Sender<State>,
    /// Those of the current session: they end with it.
    consumers: Mutex<Vec<ConsumerId>>,
    #[cfg(test)]
    road: Option<Arc<dyn Road>>,
}

#[derive(Debug, Clone)]
struct State {
    /// Counts the connections made one after another.
    session: u64,
    is_up: bool,
    blocked: Option<Arc<str>>,
    is_closed: bool,
}

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(State {
                session: 0,
                is_up: true,
                blocked: None,
                is_closed: false,
            }),
            consumers: Mutex::default(),
            #[cfg(test)]
            road: None,
        }
    }

    /// The connection, once it is there. Cancel safe.
    ///
    /// # Errors
    ///
    /// Where the handle was closed, or the connection was lost while something was opened on it.
    pub(super) async fn ready(&self) -> Result<Session, BrokerError> {
        let session = self.next_session().await?;
        session.arrive().await?;
        Ok(session)
    }

    async fn next_session(&self) -> Result<Session, BrokerError> {
        let mut state = self.state.subscribe();
        let ready = state.wait_for(|state| state.is_up || state.is_closed).await;
        match ready.as_deref() {
            Ok(State {
                is_closed: false,
                session,
                ..
            }) => Ok(Session {
                number: *session,
                state: self.state.subscribe(),
                #[cfg(test)]
                road: self.road.clone(),
            }),
            _ => Err(BrokerError::Closed),
        }
    }

    /// A consumer that the broker takes away when the connection ends, and what it did not settle goes back.
    pub(super) fn keep(&self, consumer: ConsumerId, broker: &InProcessBroker) {
        let mut consumers = self.lock();
        let hub = broker.hub();
        consumers.retain(|earlier| hub.has(earlier));
        consumers.push(consumer);
    }

    /// Ends the connection for good.
    pub(super) fn close(&self, broker: &InProcessBroker) {
        self.state.send_modify(|state| state.is_closed = true);
        self.end_consumers(broker);
    }

    fn end_consumers(&self, broker: &InProcessBroker) {
        let consumers = std::mem::take(&mut *self.lock());
        for consumer in consumers {
            broker.hub().close(&consumer, Instant::now());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ConsumerId>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Wire {
    /// With a way to go.
    pub(super) fn over(road: Arc<dyn Road>) -> Self {
        Self {
            road: Some(road),
            ..Self::new()
        }
    }

    /// Ends the connection; there is no other until it is [mended](Self::mend). Answers with the consumers that the broker
    /// takes away when it sees that.
    pub(super) fn cut(&self) -> Vec<ConsumerId> {
        self.state.send_modify(|state| {
            state.session += 1;
            state.is_up = false;
            state.blocked = None;
        });
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn mend(&self) {
        self.state.send_modify(|state| state.is_up = true);
    }

    /// Has the broker read nothing that is published, or go on with it.
    pub(super) fn block(&self, reason: Option<&str>) {
        self.state
            .send_modify(|state| state.blocked = reason.map(Arc::from));
    }
}

/// One connection, between two cuts.
#[derive(Debug, Clone)]
pub(super) struct Session {
    number: u64,
    state: watch::Receiver<State>,
    #[cfg(test)]
    road: Option<Arc<dyn Road>>,
}

impl Session {
    #[cfg(test)]
    pub(super) fn road(&self) -> Option<Arc<dyn Road>> {
        self.road.clone()
    }

    /// Why the connection is over; nothing while it lasts.
    pub(super) fn over(&self) -> Option<BrokerError> {
        self.over_in(&self.state.borrow())
    }

    fn over_in(&self, state: &State) -> Option<BrokerError> {
        match state {
            State { is_closed: true, .. } => Some(BrokerError::Closed),
            State { session, .. } if *session != self.number => Some(BrokerError::Lost { source: None }),
            _ => None,
        }
    }

    /// Waits until the connection is over, and says why. Cancel safe.
    pub(super) async fn lost(&self) -> BrokerError {
        let mut state = self.state.clone();
        let over = state.wait_for(|state| self.over_in(state).is_some()).await;
        // The handle itself is gone where there is no state any more.
        over.ok()
            .and_then(|state| self.over_in(&state))
            .unwrap_or(BrokerError::Closed)
    }

    /// Whether the broker reads what is published now.
    pub(super) fn is_free(&self) -> bool {
        let state = self.state.borrow();
        state.blocked.is_none() && self.over_in(&state).is_none()
    }

    /// Waits until the broker reads what is published.
    ///
    /// # Errors
    ///
    /// Where the connection is over.
    pub(super) async fn unblocked(&self) -> Result<(), BrokerError> {
        let mut state = self.state.clone();
        let free = state.wait_for(|state| state.blocked.is_none() || self.over_in(state).is_some());
        let over = free
            .await
            .ok()
            .map_or(Some(BrokerError::Closed), |state| self.over_in(&state));
        over.map_or(Ok(()), Err)
    }
}
