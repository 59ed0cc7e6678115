//! The way between a handle and the broker: no distance at all, except in the simulation.

use super::wire::Session;
use crate::error::BrokerError;

impl Session {
    /// Has the broker do something, and waits for its word on it. Dropping the future does not call it back.
    ///
    /// # Errors
    ///
    /// Where the connection was lost before the word came: nobody knows then whether it was done.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BrokerError> {
        #[cfg(test)]
        if let Some(road) = self.road() {
            return simulated::ask(self, road, act).await;
        }
        Ok(act())
    }

    /// Has the broker do something, and does not wait for it.
    pub(super) fn tell(&self, act: impl FnOnce() + Send + 'static) {
        #[cfg(test)]
        if let Some(road) = self.road() {
            return simulated::tell(self, road, act);
        }
        act();
    }

    /// Waits while something is under way to this side. Cancel safe.
    ///
    /// # Errors
    ///
    /// Where the connection is lost meanwhile.
    pub(super) async fn arrive(&self) -> Result<(), BrokerError> {
        #[cfg(test)]
        if let Some(road) = self.road() {
            return simulated::travel(self, road.trip(simulated::Leg::Down)).await;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod simulated {
    use std::fmt::Debug;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::{BrokerError, Session};

    /// Which way something goes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Leg {
        /// To the broker: first sent, first there.
        Up,
        /// From the broker.
        Down,
    }

    /// How long it takes between a handle and the broker, one connection's way.
    pub(crate) trait Road: Debug + Send + Sync {
        fn trip(&self, leg: Leg) -> Duration;

        /// Whether what was sent at this instant arrives although its connection is over: the broker reads what it received
        /// before it sees the end.
        fn outlives_its_connection(&self, sent: Instant) -> bool;
    }

    pub(super) async fn ask<T: Send + 'static>(
        session: &Session,
        road: Arc<dyn Road>,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BrokerError> {
        let (up, down, sent) = (road.trip(Leg::Up), road.trip(Leg::Down), Instant::now());
        let sender = session.clone();
        // A task, so that what has left arrives though nobody waits for it any more.
        let asked = tokio::spawn(async move {
            rest(up).await;
            if sender.unblocked().await.is_err() && !road.outlives_its_connection(sent) {
                return None;
            }
            let word = act();
            rest(down).await;
            Some(word)
        });
        let word = tokio::select! {
            biased;
            reason = session.lost() => return Err(reason),
            word = asked => word.ok().flatten(),
        };
        word.ok_or(BrokerError::Lost { source: None })
    }

    pub(super) fn tell(session: &Session, road: Arc<dyn Road>, act: impl FnOnce() + Send + 'static) {
        // With its runtime, whatever is under way ends.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (up, session) = (road.trip(Leg::Up), session.clone());
        runtime.spawn(async move {
            if travel(&session, up).await.is_ok() {
                act();
            }
        });
    }

    pub(super) async fn travel(session: &Session, time: Duration) -> Result<(), BrokerError> {
        tokio::select! {
            biased;
            reason = session.lost() => Err(reason),
            () = rest(time) => Ok(()),
        }
    }

    /// No time at all is not even a turn of the scheduler.
    async fn rest(time: Duration) {
        if !time.is_zero() {
            sleep(time).await;
        }
    }
}
