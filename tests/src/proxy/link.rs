//! One connection through the proxy, as far as faults look at it.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::target::{Target, Way};

/// What the proxy knows about a connection, also after its end.
#[derive(Debug)]
pub(super) struct Link {
    /// How many connections were accepted before it.
    number: usize,
    /// Set once it has arrived from the client.
    pub(super) name: OnceLock<String>,
    to_broker: Lane,
    from_broker: Lane,
    /// Asks for a reset.
    pub(super) reset: CancellationToken,
    /// Reports that both sockets are closed, whatever the reason.
    pub(super) ended: CancellationToken,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// How many bytes were forwarded.
    pub(super) forwarded: AtomicU64,
    /// Asks for the end of this direction.
    pub(super) close: CancellationToken,
    /// Reports that this direction has ended, unless the connection was lost or reset.
    pub(super) closed: CancellationToken,
}

impl Link {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            name: OnceLock::new(),
            to_broker: Lane::default(),
            from_broker: Lane::default(),
            reset: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Whether the target includes this connection.
    pub(super) fn is(&self, target: Target) -> bool {
        match target {
            Target::All => true,
            Target::Named(name) => self.name.get().is_some_and(|own| own.ends_with(name)),
            Target::Nth(number) => self.number == number,
        }
    }

    pub(super) fn forwarded(&self, way: Way) -> u64 {
        self.lane(way).forwarded.load(Ordering::Relaxed)
    }

    pub(super) fn reset(&self) {
        self.reset.cancel();
    }

    /// Ends one direction in order. Returns once that is done, or the whole connection has ended.
    pub(super) async fn close(&self, way: Way) {
        let lane = self.lane(way);
        lane.close.cancel();
        tokio::select! {
            () = lane.closed.cancelled() => {}
            () = self.ended() => {}
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until both sockets are closed.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(super) fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::ToBroker => &self.to_broker,
            Way::FromBroker => &self.from_broker,
        }
    }
}
