//! A TCP proxy before the broker, with faults that a test switches on and off.
//!
//! Clients connect to [`Proxy::url`]. A fault that lasts (latency, a black hole, …) is there as long as its [`Fault`];
//! a fault of a moment (a reset, a half-close) is there when its method returns; a [`Cut`] waits for bytes to pass.
//! All are aimed at a [`Target`], and most at a [`Direction`]. What the proxy has done is in its [`Counts`].
//!
//! Where only one of several clients is to suffer, it gets a proxy of its own; the connections of one client differ in
//! the names that it gives them.
//!
//! The proxy acknowledges what it reads as TCP does, also when it does not forward it: a black hole looks like a
//! network that loses everything only until the buffers on the way are full.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio_util::task::AbortOnDropHandle;

mod address;
mod cut;
mod link;
mod rules;
mod shared;
#[cfg(test)]
mod tests;

use self::{
    address::Address,
    cut::{Moment, Plan},
    rules::Condition,
    shared::{Port, Shared},
};
pub use self::{
    cut::{Cut, Sight},
    rules::Fault,
};

/// The first bytes of a `basic.ack` method, class 60 and method 80: from the broker it is a publisher's confirm.
pub const BASIC_ACK: [u8; 4] = [0, 60, 0, 80];

/// Which way the bytes go that a fault applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    FromBroker,
    /// Either way.
    Both,
}

impl Direction {
    fn covers(self, way: Way) -> bool {
        match self {
            Self::ToBroker => way == Way::ToBroker,
            Self::FromBroker => way == Way::FromBroker,
            Self::Both => true,
        }
    }
}

/// One of the two ways through a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToBroker,
    FromBroker,
}

impl Way {
    const BOTH: [Self; 2] = [Self::ToBroker, Self::FromBroker];

    fn opposite(self) -> Self {
        match self {
            Self::ToBroker => Self::FromBroker,
            Self::FromBroker => Self::ToBroker,
        }
    }
}

/// Which connections a fault applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All of them.
    All,
    /// Those whose client gave them a name that ends so: `connection_name` in the properties of its `start-ok`.
    ///
    /// A connection has its name from the moment these bytes arrive at the proxy, before they are forwarded. The
    /// runtime's end with `rpc publish`, `rpc consume` and `rpc direct replies`.
    Named(&'static str),
    /// The one that was accepted after this many others.
    Nth(usize),
}

/// What has gone through the connections of a [`Target`] so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many connections were accepted.
    pub accepted: usize,
    /// How many of them have not ended.
    pub open: usize,
    /// How many bytes were forwarded to the broker.
    pub to_broker: u64,
    /// How many bytes were forwarded to clients.
    pub from_broker: u64,
}

/// A proxy on a port of its own on 127.0.0.1.
///
/// Dropping it closes the port and all connections. It lives on the runtime that started it.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Starts a proxy before the broker of this AMQP URL.
    ///
    /// The broker need not be there: a client is reset where it cannot be reached.
    ///
    /// # Errors
    ///
    /// Where the URL is not one, and where there is no port to listen on.
    pub async fn start(broker: &str) -> anyhow::Result<Self> {
        let address = Address::parse(broker)?;
        let port = Port::reserve().context("no port for the proxy")?;
        let listener = port.listen()?;

        let url = address.with_authority(port.address);
        let shared = Arc::new(Shared::new(address.host_and_port()));
        let task = tokio::spawn(shared.clone().accept(port, listener));
        Ok(Self {
            url,
            shared,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The broker's URL with the proxy's host and port in it, always the same.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What has gone through the connections of this target so far.
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

    /// The connections of this target that are open now, each as a target of its own: a fault that is aimed at them spares
    /// those that are made later.
    pub fn open(&self, target: Target) -> Vec<Target> {
        let links = self.shared.links(target);
        let open = links.iter().filter(|link| !link.has_ended());
        open.map(|link| Target::Nth(link.number())).collect()
    }

    /// Holds each byte for this long. The order stays, and so does the throughput.
    pub fn delay(&self, target: Target, direction: Direction, by: Duration) -> Fault {
        self.inject(target, Condition::Latency(direction, by))
    }

    /// Forwards at most this many bytes a second on each connection and way, but at least one.
    pub fn throttle(&self, target: Target, direction: Direction, bytes_per_second: u64) -> Fault {
        self.inject(target, Condition::Rate(direction, bytes_per_second.max(1)))
    }

    /// Forwards nothing more, neither bytes nor an end, and closes nothing. Afterwards what was held goes on.
    pub fn black_hole(&self, target: Target, direction: Direction) -> Fault {
        self.inject(target, Condition::BlackHole(direction))
    }

    /// Accepts new connections, reads nothing from them and says nothing. Afterwards they are served.
    pub fn silence_new(&self) -> Fault {
        self.inject(Target::All, Condition::Silence)
    }

    /// Closes the port, so that the system refuses new connections; those which there are stay.
    pub async fn refuse_new(&self) -> Fault {
        let fault = self.inject(Target::All, Condition::Refusal);
        self.shared.door_moved().await;
        fault
    }

    /// Resets the connections that there are, and returns how many once they are gone.
    ///
    /// Both ends see "connection reset by peer", after what was forwarded before.
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

    /// Ends one way of the connections that there are, in order and without what it held, and returns how many once
    /// this is done. The receiver sees the end of the stream; the other way stays open.
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

    /// Lets exactly this many bytes pass from now on, then resets: the first connection on which they have passed,
    /// and no other. Where the direction is both, the bytes of both ways count.
    pub fn cut_after_bytes(&self, target: Target, direction: Direction, count: u64) -> Cut {
        self.arm(target, Plan::bytes(direction, count))
    }

    /// Resets the first connection on which this is seen, before the last of it is forwarded: the chunk of bytes in
    /// which the needle ends gets through only up to where the needle begins.
    pub fn cut_before(&self, target: Target, sight: Sight) -> Cut {
        self.arm(target, Plan::sight(sight, Moment::Before))
    }

    /// Resets the first connection on which this is seen, after the chunk of bytes in which its last needle ends was
    /// forwarded.
    ///
    /// Where the rest of a frame or message must get through as well, wait for what answers it:
    ///
    /// ```
    /// # use rpc_tests::proxy::{BASIC_ACK, Proxy, Sight, Target};
    /// # fn example(proxy: &Proxy, id: &str) {
    /// // The broker has the message with this id, and the publisher never learns that.
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
