//! A handle's connection to the in-process broker.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::broker::InProcessBroker;
#[cfg(test)]
use super::link::{Direction, Link};
use super::queues::ConsumerId;
use crate::error::BrokerError;
use crate::sync::watch;

#[derive(Debug)]
pub(super) struct Connection {
    state: watch::Sender<State>,
    /// The consumers of the current session. They end with it.
    consumers: Mutex<Vec<ConsumerId>>,
    #[cfg(test)]
    link: Option<Arc<dyn Link>>,
}

#[derive(Debug, Clone)]
struct State {
    /// Counts reconnects.
    session: u64,
    is_up: bool,
    blocked: Option<Arc<str>>,
    is_closed: bool,
}

impl Connection {
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
            link: None,
        }
    }

    /// Waits until the connection is up. Cancel safe.
    ///
    /// # Errors
    ///
    /// Fails if the handle was closed, or the connection is lost meanwhile.
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
                link: self.link.clone(),
            }),
            _ => Err(BrokerError::Closed),
        }
    }

    /// Adds a consumer, which the broker removes when the connection ends.
    pub(super) fn add_consumer(&self, consumer: ConsumerId, broker: &InProcessBroker) {
        let mut consumers = self.lock();
        let queues = broker.queues();
        consumers.retain(|earlier| queues.has(earlier));
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
            broker.queues().close(&consumer, Instant::now());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ConsumerId>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Connection {
    /// A connection over a simulated link.
    pub(super) fn over(link: Arc<dyn Link>) -> Self {
        Self {
            link: Some(link),
            ..Self::new()
        }
    }

    /// Cuts the connection until [`restore`](Self::restore). Returns the consumers that the broker
    /// removes once it notices.
    pub(super) fn cut(&self) -> Vec<ConsumerId> {
        self.state.send_modify(|state| {
            state.session += 1;
            state.is_up = false;
            state.blocked = None;
        });
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn restore(&self) {
        self.state.send_modify(|state| state.is_up = true);
    }

    /// Blocks the connection for a reason, or unblocks it.
    pub(super) fn block(&self, reason: Option<&str>) {
        self.state
            .send_modify(|state| state.blocked = reason.map(Arc::from));
    }
}

/// A connection from one reconnect to the next.
#[derive(Debug, Clone)]
pub(super) struct Session {
    number: u64,
    state: watch::Receiver<State>,
    #[cfg(test)]
    link: Option<Arc<dyn Link>>,
}

impl Session {
    #[cfg(test)]
    pub(super) fn link(&self) -> Option<Arc<dyn Link>> {
        self.link.clone()
    }

    /// Why the connection is lost. `None` while it is up.
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

    /// Waits until the connection is lost and returns why. Cancel safe.
    pub(super) async fn lost(&self) -> BrokerError {
        let mut state = self.state.clone();
        let over = state.wait_for(|state| self.over_in(state).is_some()).await;
        // An error means that the handle is gone.
        over.ok()
            .and_then(|state| self.over_in(&state))
            .unwrap_or(BrokerError::Closed)
    }

    /// Whether the broker reads what is published.
    pub(super) fn is_free(&self) -> bool {
        let state = self.state.borrow();
        state.blocked.is_none() && self.over_in(&state).is_none()
    }

    /// Waits until the broker reads what is published.
    ///
    /// # Errors
    ///
    /// Fails if the connection is lost.
    pub(super) async fn unblocked(&self) -> Result<(), BrokerError> {
        let mut state = self.state.clone();
        let free = state.wait_for(|state| state.blocked.is_none() || self.over_in(state).is_some());
        let over = free
            .await
            .ok()
            .map_or(Some(BrokerError::Closed), |state| self.over_in(&state));
        over.map_or(Ok(()), Err)
    }

    /// Has the broker do something and waits for the answer. Dropping the future does not withdraw
    /// the request.
    ///
    /// # Errors
    ///
    /// Fails if the connection is lost before the answer. The request may have been done.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BrokerError> {
        #[cfg(test)]
        if let Some(link) = self.link() {
            return simulated::ask(self, link, act).await;
        }
        Ok(act())
    }

    /// Has the broker do something, without waiting for it.
    pub(super) fn tell(&self, act: impl FnOnce() + Send + 'static) {
        #[cfg(test)]
        if let Some(link) = self.link() {
            return simulated::tell(self, &*link, act);
        }
        act();
    }

    /// Waits for as long as a message from the broker takes. Cancel safe.
    ///
    /// # Errors
    ///
    /// Fails if the connection is lost meanwhile.
    pub(super) async fn arrive(&self) -> Result<(), BrokerError> {
        #[cfg(test)]
        if let Some(link) = self.link() {
            return simulated::travel(self, link.delay(Direction::FromBroker)).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod simulated {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    pub(super) async fn ask<T: Send + 'static>(
        session: &Session,
        link: Arc<dyn Link>,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BrokerError> {
        let to_broker = link.delay(Direction::ToBroker);
        let from_broker = link.delay(Direction::FromBroker);
        let (sender, sent) = (session.clone(), Instant::now());
        // A task, so that the request arrives even if nobody waits for the answer any more.
        let asked = tokio::spawn(async move {
            pause(to_broker).await;
            if sender.unblocked().await.is_err() && !link.outlives_its_connection(sent) {
                return None;
            }
            let answer = act();
            pause(from_broker).await;
            Some(answer)
        });
        let answer = tokio::select! {
            biased;
            reason = session.lost() => return Err(reason),
            answer = asked => answer.ok().flatten(),
        };
        answer.ok_or(BrokerError::Lost { source: None })
    }

    pub(super) fn tell(session: &Session, link: &dyn Link, act: impl FnOnce() + Send + 'static) {
        // Messages on their way end with the runtime.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (delay, session) = (link.delay(Direction::ToBroker), session.clone());
        runtime.spawn(async move {
            if travel(&session, delay).await.is_ok() {
                act();
            }
        });
    }

    pub(super) async fn travel(session: &Session, delay: Duration) -> Result<(), BrokerError> {
        tokio::select! {
            biased;
            reason = session.lost() => Err(reason),
            () = pause(delay) => Ok(()),
        }
    }

    /// Without a delay, this does not even yield to the scheduler.
    async fn pause(delay: Duration) {
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }
}
