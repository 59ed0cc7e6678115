//! A handle's connection to the in-process broker.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::broker::InProcessBroker;
#[cfg(test)]
use super::link::{Direction, Link};
use super::queues::ConsumerId;
use crate::error::BrokerError;
use crate::sync::watch;
#[cfg(test)]
use crate::transport::Connectivity;

#[derive(Debug)]
pub(super) struct Connection {
    state: watch::Sender<State>,
    /// The consumers of the open connection. They end when it is lost. Some may have ended earlier.
    consumers: Mutex<Vec<ConsumerId>>,
    #[cfg(test)]
    link: Option<Arc<dyn Link>>,
}

#[derive(Debug, Clone)]
struct State {
    /// How many times the connection was lost. Distinguishes an open connection from earlier ones.
    losses: u64,
    is_up: bool,
    blocked: Option<Arc<str>>,
    is_closed: bool,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(State {
                losses: 0,
                is_up: true,
                blocked: None,
                is_closed: false,
            }),
            consumers: Mutex::default(),
            #[cfg(test)]
            link: None,
        }
    }

    /// Waits until the connection is up, and for the simulated delay (tests only). Cancel safe.
    ///
    /// # Errors
    ///
    /// Fails if the handle was closed, or the connection is lost meanwhile.
    pub(super) async fn wait_ready(&self) -> Result<OpenConnection, BrokerError> {
        let open = self.wait_open().await?;
        open.delay_from_broker(Instant::now()).await?;
        Ok(open)
    }

    /// Waits until the connection is up. Cancel safe.
    async fn wait_open(&self) -> Result<OpenConnection, BrokerError> {
        let mut state = self.state.subscribe();
        let ready = state.wait_for(|state| state.is_up || state.is_closed).await;
        match ready.as_deref() {
            Ok(State {
                is_closed: false,
                losses,
                ..
            }) => Ok(OpenConnection {
                losses: *losses,
                state: self.state.subscribe(),
                #[cfg(test)]
                link: self.link.clone(),
            }),
            _ => Err(BrokerError::Closed),
        }
    }

    /// Adds a consumer of an open connection, which the broker removes when the connection ends.
    ///
    /// # Errors
    ///
    /// If the connection has ended, removes the consumer from the broker, and returns the reason.
    pub(super) fn add_consumer(
        &self,
        open: &OpenConnection,
        consumer: &ConsumerId,
        broker: &InProcessBroker,
    ) -> Result<(), BrokerError> {
        // Locked before the state is read: if the connection ends after that, its end waits for
        // this lock, and then removes this consumer as well.
        let mut consumers = self.lock();
        let mut queues = broker.queues();
        if let Some(reason) = open.end_reason() {
            queues.close_consumer(consumer, Instant::now());
            return Err(reason);
        }
        // Forgets the consumers that have ended.
        consumers.retain(|earlier| queues.has_consumer(earlier));
        consumers.push(consumer.clone());
        Ok(())
    }

    /// Ends the connection for good.
    pub(super) fn close(&self, broker: &InProcessBroker) {
        self.state.send_modify(|state| state.is_closed = true);
        self.end_consumers(broker);
    }

    /// Removes the consumers of the open connection.
    fn end_consumers(&self, broker: &InProcessBroker) {
        let consumers = std::mem::take(&mut *self.lock());
        for consumer in consumers {
            broker.queues().close_consumer(&consumer, Instant::now());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ConsumerId>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Connection {
    /// A connection over a simulated link.
    pub(super) fn over_link(link: Arc<dyn Link>) -> Self {
        Self {
            link: Some(link),
            ..Self::new()
        }
    }

    /// Cuts the connection until [`restore`](Self::restore), and unblocks it. Returns its
    /// consumers, which the caller removes once the broker is to notice the loss.
    pub(super) fn cut(&self) -> Vec<ConsumerId> {
        self.state.send_modify(|state| {
            state.losses += 1;
            state.is_up = false;
            state.blocked = None;
        });
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn restore(&self) {
        self.state.send_modify(|state| state.is_up = true);
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.subscribe().borrow().is_up
    }

    /// The state of a connection that is up.
    pub(super) fn connectivity(&self) -> Connectivity {
        match self.state.subscribe().borrow().blocked.clone() {
            Some(reason) => Connectivity::Blocked { reason },
            None => Connectivity::Up,
        }
    }

    /// Blocks the connection for a reason, or unblocks it.
    pub(super) fn block(&self, reason: Option<&str>) {
        self.state
            .send_modify(|state| state.blocked = reason.map(Arc::from));
    }
}

/// A connection that was up. It may have been lost since then.
#[derive(Debug, Clone)]
pub(super) struct OpenConnection {
    /// How many times the connection had been lost when this was made.
    losses: u64,
    state: watch::Receiver<State>,
    #[cfg(test)]
    link: Option<Arc<dyn Link>>,
}

impl OpenConnection {
    #[cfg(test)]
    pub(super) fn link(&self) -> Option<Arc<dyn Link>> {
        self.link.clone()
    }

    /// Why the connection is lost or the handle was closed. `None` while it is up.
    pub(super) fn end_reason(&self) -> Option<BrokerError> {
        self.end_reason_in(&self.state.borrow())
    }

    fn end_reason_in(&self, state: &State) -> Option<BrokerError> {
        match state {
            State { is_closed: true, .. } => Some(BrokerError::Closed),
            State { losses, .. } if *losses != self.losses => Some(BrokerError::Lost { source: None }),
            _ => None,
        }
    }

    /// Waits until the connection is lost or the handle is closed, and returns why. Cancel safe.
    pub(super) async fn wait_lost(&self) -> BrokerError {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| self.end_reason_in(state).is_some()).await;
        // An error means that the handle was dropped.
        ended
            .ok()
            .and_then(|state| self.end_reason_in(&state))
            .unwrap_or(BrokerError::Closed)
    }

    /// Whether the connection is up and not blocked.
    pub(super) fn can_publish(&self) -> bool {
        let state = self.state.borrow();
        state.blocked.is_none() && self.end_reason_in(&state).is_none()
    }

    /// Waits until the connection is not blocked, which only tests simulate.
    ///
    /// # Errors
    ///
    /// Fails if the handle was closed, or the connection is lost.
    pub(super) async fn wait_unblocked(&self) -> Result<(), BrokerError> {
        let mut state = self.state.clone();
        let unblocked =
            state.wait_for(|state| state.blocked.is_none() || self.end_reason_in(state).is_some());
        // An error means that the handle was dropped.
        let Ok(state) = unblocked.await else {
            return Err(BrokerError::Closed);
        };
        match self.end_reason_in(&state) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// Runs `act` at the broker and waits for the answer. Dropping the future does not withdraw the
    /// request.
    ///
    /// # Errors
    ///
    /// Fails if a simulated connection is lost before the answer. `act` may have run, or may still
    /// run. Without simulation, never fails, and runs `act` even if the connection has ended.
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

    /// Runs `act` at the broker, without waiting for it, unless a simulated connection is lost
    /// before. Also runs it while the connection is blocked: the broker then still takes
    /// acknowledgements.
    pub(super) fn tell(&self, act: impl FnOnce() + Send + 'static) {
        #[cfg(test)]
        if let Some(link) = self.link() {
            return simulated::tell(self, &*link, act);
        }
        act();
    }

    /// Simulates the delay of a message that the broker sent at this instant (tests only). Cancel
    /// safe.
    ///
    /// # Errors
    ///
    /// Fails if the connection is lost meanwhile.
    pub(super) async fn delay_from_broker(&self, sent_at: Instant) -> Result<(), BrokerError> {
        #[cfg(test)]
        if let Some(link) = self.link() {
            // A message on a narrow link begins its way only now.
            let begun_at = if link.is_narrow() { Instant::now() } else { sent_at };
            let delay = link.delay(Direction::FromBroker);
            return simulated::travel(self, delay.saturating_sub(begun_at.elapsed())).await;
        }
        // Without a link, there is no delay.
        let _ = sent_at;
        Ok(())
    }
}

/// The ways to the broker and back over a simulated link.
#[cfg(test)]
mod simulated {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    /// Like [`OpenConnection::ask`].
    pub(super) async fn ask<T: Send + 'static>(
        connection: &OpenConnection,
        link: Arc<dyn Link>,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BrokerError> {
        let to_broker = link.delay(Direction::ToBroker);
        let from_broker = link.delay(Direction::FromBroker);
        let (open, sent) = (connection.clone(), Instant::now());
        // In a task, so that the request arrives even if the caller stops waiting for the answer.
        let asked = tokio::spawn(async move {
            pause(to_broker).await;
            if open.wait_unblocked().await.is_err() && !link.delivers_despite_loss(sent) {
                // The request is lost with the connection.
                return None;
            }
            let answer = act();
            pause(from_broker).await;
            Some(answer)
        });
        let answer = tokio::select! {
            biased;
            reason = connection.wait_lost() => return Err(reason),
            answer = asked => answer.ok().flatten(),
        };
        answer.ok_or(BrokerError::Lost { source: None })
    }

    /// Like [`OpenConnection::tell`].
    pub(super) fn tell(connection: &OpenConnection, link: &dyn Link, act: impl FnOnce() + Send + 'static) {
        // Without a runtime, the message is lost.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (delay, connection) = (link.delay(Direction::ToBroker), connection.clone());
        runtime.spawn(async move {
            if travel(&connection, delay).await.is_ok() {
                act();
            }
        });
    }

    /// Waits until a message has arrived, or fails if the connection is lost before.
    pub(super) async fn travel(connection: &OpenConnection, delay: Duration) -> Result<(), BrokerError> {
        tokio::select! {
            biased;
            reason = connection.wait_lost() => Err(reason),
            () = pause(delay) => Ok(()),
        }
    }

    /// Sleeps for a delay. Does not yield to the scheduler if the delay is zero.
    async fn pause(delay: Duration) {
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }
}
