//! The simulated network: how long messages take, and whether they outlive their connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::transport::memory::{Direction, Link};

/// The state that all links of a simulation share.
#[derive(Debug)]
pub(super) struct Network {
    state: Mutex<State>,
    /// See [`Link::is_narrow`].
    is_narrow: bool,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    /// See [`Network::new`].
    latency: u64,
    /// Messages that were sent before this do not outlive their connection.
    broker_started: Instant,
}

/// The link of one connection.
#[derive(Debug)]
struct NetworkLink {
    network: Arc<Network>,
    /// When the last sent message arrives at the broker. Later messages do not arrive before it.
    last_arrival: Mutex<Instant>,
}

impl Network {
    /// `latency` is the maximum latency of a message in milliseconds. One message in twenty may
    /// take ten times as long.
    pub(super) fn new(seed: u64, latency: u64) -> Arc<Self> {
        Self::with_width(seed, latency, false)
    }

    /// Creates a network of [narrow](Link::is_narrow) links.
    pub(super) fn narrow(seed: u64, latency: u64) -> Arc<Self> {
        Self::with_width(seed, latency, true)
    }

    fn with_width(seed: u64, latency: u64, is_narrow: bool) -> Arc<Self> {
        let state = State {
            rng: Rng::with_seed(seed),
            latency,
            broker_started: Instant::now(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            is_narrow,
        })
    }

    pub(super) fn link(self: &Arc<Self>) -> Arc<dyn Link> {
        Arc::new(NetworkLink {
            network: Arc::clone(self),
            last_arrival: Mutex::new(Instant::now()),
        })
    }

    /// Makes the messages that were sent until now end with their connections.
    pub(super) fn broker_restarted(&self) {
        self.state.lock().unwrap().broker_started = Instant::now();
    }
}

impl Link for NetworkLink {
    fn delay(&self, direction: Direction) -> Duration {
        let State { rng, latency, .. } = &mut *self.network.state.lock().unwrap();
        let factor = if rng.u8(..20) == 0 { 10 } else { 1 };
        let time = Duration::from_millis(factor * rng.u64(..=*latency));
        if direction == Direction::FromBroker {
            return time;
        }
        // Not before the message that was sent last.
        let mut last = self.last_arrival.lock().unwrap();
        *last = (*last).max(Instant::now() + time);
        last.duration_since(Instant::now())
    }

    fn is_narrow(&self) -> bool {
        self.network.is_narrow
    }

    fn delivers_despite_loss(&self, sent: Instant) -> bool {
        let state = &mut *self.network.state.lock().unwrap();
        state.rng.bool() && state.broker_started < sent
    }
}
