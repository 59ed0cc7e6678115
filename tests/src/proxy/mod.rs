//! A TCP proxy in front of the broker, with faults that a test switches on and off.
//!
//! Clients connect to [`Proxy::url`]. A lasting fault (latency, a black hole, …) holds as long as
//! its [`Fault`]. A momentary fault (a reset, a half-close) has happened when its method returns. A
//! [`Cut`] waits for bytes to pass. Most faults have a [`Target`] and a [`Direction`]; two affect
//! all new connections. [`Counts`] reports what the proxy has done.
//!
//! Give a client a proxy of its own if the other clients must not suffer. [`Target::Named`] selects
//! among the connections of one client.
//!
//! The proxy acknowledges at the TCP level what it reads, even if it does not forward it. So a
//! black hole differs from a network that loses everything: until the buffers are full, the sender
//! gets acknowledgements for bytes that do not arrive.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio_util::task::AbortOnDropHandle;

mod address;
mod carrier;
mod cut;
mod fault;
mod link;
mod port;
mod rules;
mod shared;
mod target;
#[cfg(test)]
mod tests;
mod trigger;

use self::{
    address::Address,
    port::{Port, accept},
    rules::Condition,
    shared::Shared,
    target::Way,
    trigger::{Moment, Plan},
};
pub use self::{
    cut::Cut,
    fault::Fault,
    target::{Direction, Target},
    trigger::Sight,
};

/// The first bytes in the payload of a `basic.ack` frame: class 60 and method 80. From the broker,
/// it is a publisher confirm.
pub const BASIC_ACK: [u8; 4] = [0, 60, 0, 80];

/// What the connections of a [`Target`] have carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many connections were accepted.
    pub accepted: usize,
    /// How many of them are still open.
    pub open: usize,
    /// How many bytes were forwarded to the broker.
    pub to_broker: u64,
    /// How many bytes were forwarded to clients.
    pub from_broker: u64,
}

/// A proxy with a port of its own on 127.0.0.1.
///
/// Dropping it closes the port and all connections. It runs on the runtime that started it.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Starts a proxy in front of the broker with this AMQP URL.
    ///
    /// The broker need not be running: clients are reset if it cannot be reached.
    ///
    /// # Errors
    ///
    /// Fails if the URL is invalid or no port is free.
    pub async fn start(broker: &str) -> anyhow::Result<Self> {
        let address = Address::parse(broker)?;
        let port = Port::reserve().context("no port for the proxy")?;
        let listener = port.listen()?;

        let url = address.with_host_and_port(port.address);
        let shared = Arc::new(Shared::new(address.host_and_port()));
        let task = tokio::spawn(accept(shared.clone(), port, listener));
        Ok(Self {
            url,
            shared,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Returns the broker's URL with the proxy's host and port. It never changes.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns what the connections of this target have carried so far.
    pub fn counts(&self, target: Target) -> Counts {
        let mut counts = Counts::default();
        for link in self.shared.links(target) {
            counts.accepted += 1;
            counts.open += usize::from(!link.has_ended());
            counts.to_broker += link.forwarded(Way::ToBroker);
            counts.from_broker += link.forwarded(Way::FromBroker);
        }
        counts
    }

    /// Returns the open connections of this target, each as a target of its own. A fault with these
    /// targets spares later connections.
    pub fn open(&self, target: Target) -> Vec<Target> {
        let links = self.shared.links(target);
        let open = links.iter().filter(|link| !link.has_ended());
        open.map(|link| Target::Nth(link.number())).collect()
    }

    /// Delays each byte by this time, and keeps the order. A direction stalls while about 1 MiB of
    /// it is delayed.
    pub fn delay(&self, target: Target, direction: Direction, by: Duration) -> Fault {
        self.inject(target, Condition::Latency(direction, by))
    }

    /// Forwards at most this many bytes a second, but at least one, on each connection and
    /// direction.
    pub fn throttle(&self, target: Target, direction: Direction, bytes_per_second: u64) -> Fault {
        self.inject(target, Condition::Rate(direction, bytes_per_second.max(1)))
    }

    /// Forwards nothing in this direction: no bytes, no end of the stream, no reset. Held bytes
    /// continue when the fault ends.
    pub fn black_hole(&self, target: Target, direction: Direction) -> Fault {
        self.inject(target, Condition::BlackHole(direction))
    }

    /// Accepts new connections, but reads and sends nothing on them until the fault ends.
    pub fn silence_new(&self) -> Fault {
        self.inject(Target::All, Condition::Silence)
    }

    /// Closes the port, so that new connections are refused. Returns once it is closed. Existing
    /// connections stay open.
    pub async fn refuse_new(&self) -> Fault {
        let fault = self.inject(Target::All, Condition::Refusal);
        self.shared.port_follows_rules().await;
        fault
    }

    /// Resets the existing connections. Returns how many there were, once they are closed.
    ///
    /// Both ends see "connection reset by peer" after the bytes that were already forwarded.
    pub async fn reset(&self, target: Target) -> usize {
        let links = self.shared.links(target);
        let mut count = 0;
        for link in links.iter().filter(|link| !link.has_ended()) {
            count += 1;
            link.reset();
        }
        for link in links {
            link.ended().await;
        }
        count
    }

    /// Shuts down this direction of the existing connections, and discards the bytes that it held.
    /// Returns how many connections there were, once this is done. The receiver sees the end of the
    /// stream; the other direction stays open.
    pub async fn half_close(&self, target: Target, direction: Direction) -> usize {
        let links = self.shared.links(target);
        let links: Vec<_> = links.iter().filter(|link| !link.has_ended()).collect();
        for way in Way::BOTH.into_iter().filter(|&way| direction.covers(way)) {
            for link in &links {
                link.close(way).await;
            }
        }
        links.len()
    }

    /// Resets the first connection that carries this many bytes from now on, right after the last
    /// of them. With both directions, the bytes of both count.
    pub fn cut_after_bytes(&self, target: Target, direction: Direction, count: u64) -> Cut {
        self.arm(target, Plan::bytes(direction, count))
    }

    /// Resets the first connection on which this is seen, before the last needle has passed whole:
    /// of the piece in which the needle ends, only the bytes before the needle pass.
    pub fn cut_before(&self, target: Target, sight: Sight) -> Cut {
        self.arm(target, Plan::sight(sight, Moment::Before))
    }

    /// Resets the first connection on which this is seen, after the piece in which the last needle
    /// ends was forwarded.
    ///
    /// If the rest of a frame or message must pass too, wait for its response:
    ///
    /// ```
    /// # use rpc_tests::proxy::{BASIC_ACK, Proxy, Sight, Target};
    /// # fn example(proxy: &Proxy, id: &str) {
    /// // The broker has the message with this id, and its publisher gets no confirm.
    /// let lost = proxy.cut_before(Target::All, Sight::to_broker(id).then_from_broker(BASIC_ACK));
    /// # }
    /// ```
    pub fn cut_after(&self, target: Target, sight: Sight) -> Cut {
        self.arm(target, Plan::sight(sight, Moment::After))
    }

    fn inject(&self, target: Target, condition: Condition) -> Fault {
        Fault::new(self.shared.clone(), target, condition)
    }

    fn arm(&self, target: Target, plan: Plan) -> Cut {
        Cut::new(self.shared.clone(), target, plan)
    }
}
