//! To which connections, and in which direction, a fault applies.

/// The direction to which a fault applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    FromBroker,
    /// Both directions.
    Both,
}

impl Direction {
    pub(super) fn covers(self, way: Way) -> bool {
        match self {
            Self::ToBroker => way == Way::ToBroker,
            Self::FromBroker => way == Way::FromBroker,
            Self::Both => true,
        }
    }
}

/// One of the two directions of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToBroker,
    FromBroker,
}

impl Way {
    pub(super) const BOTH: [Self; 2] = [Self::ToBroker, Self::FromBroker];

    pub(super) fn opposite(self) -> Self {
        match self {
            Self::ToBroker => Self::FromBroker,
            Self::FromBroker => Self::ToBroker,
        }
    }
}

/// The connections to which a fault applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All connections.
    All,
    /// Connections whose name ends so: `connection_name` in the client properties of `start-ok`.
    ///
    /// A connection has its name once these bytes arrive at the proxy, before they are forwarded.
    /// The names of the runtime end with `rpc publish`, `rpc consume`, `rpc direct replies` and the
    /// like.
    Named(&'static str),
    /// The connection that was accepted after this many others.
    Nth(usize),
}
