//! How long messages are on their way, and whether they outlive their connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::transport::memory::faults::{Leg, Road};

/// What all ways of a world have in common.
#[derive(Debug)]
pub(super) struct Weather(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    latency: u64,
    /// What was sent before is lost for good.
    broker_started: Instant,
}

/// One connection's way.
#[derive(Debug)]
struct Way {
    weather: Arc<Weather>,
    /// When the last message that was sent arrives at the broker: none overtakes it.
    last_arrival: Mutex<Instant>,
}

impl Weather {
    pub(super) fn new(seed: u64, latency: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            rng: Rng::with_seed(seed),
            latency,
            broker_started: Instant::now(),
        })))
    }

    pub(super) fn way(self: &Arc<Self>) -> Arc<dyn Road> {
        Arc::new(Way {
            weather: Arc::clone(self),
            last_arrival: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn broker_restarts(&self) {
        self.0.lock().unwrap().broker_started = Instant::now();
    }
}

impl Road for Way {
    fn trip(&self, leg: Leg) -> Duration {
        let State { rng, latency, .. } = &mut *self.weather.0.lock().unwrap();
        let held_up = if rng.u8(..20) == 0 { 10 } else { 1 };
        let time = Duration::from_millis(held_up * rng.u64(..=*latency));
        if leg == Leg::Down {
            return time;
        }
        let mut last = self.last_arrival.lock().unwrap();
        *last = (*last).max(Instant::now() + time);
        last.duration_since(Instant::now())
    }

    fn outlives_its_connection(&self, sent: Instant) -> bool {
        let state = &mut *self.weather.0.lock().unwrap();
        state.rng.bool() && state.broker_started < sent
    }
}
