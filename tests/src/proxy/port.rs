//! The port of a proxy, and the task that accepts and owns its connections.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

use super::{carrier::serve, shared::Shared};

/// Opens and closes the port as the rules require, accepts connections and owns them. It never
/// returns: aborting it closes them and the port.
pub(super) async fn accept(shared: Arc<Shared>, port: Port, first: TcpListener) {
    let mut connections = JoinSet::new();
    let mut rules = shared.rules.subscribe();
    // The rules may have changed before this task started.
    rules.mark_changed();
    let mut listener = Some(first);
    loop {
        shared.open.send_replace(listener.is_some());
        tokio::select! {
            biased;
            Ok(()) = rules.changed() => {
                let refused = rules.borrow_and_update().refuses_new();
                // Without a listener, the port is closed.
                listener = match listener {
                    _ if refused => None,
                    None => Some(port.listen().expect("the port is reserved for us")),
                    open => open,
                };
            }
            Some(ended) = connections.join_next() => ended.expect("a connection does not panic"),
            Some(accepted) = async { Some(listener.as_ref()?.accept().await) } => {
                // An error if the client has already disconnected.
                if let Ok((client, _)) = accepted {
                    let link = shared.new_link();
                    connections.spawn(serve(link, shared.clone(), client));
                }
            }
        }
    }
}

/// A port that stays reserved while nobody listens on it.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    /// Bound, but not listening. On Linux, sockets with `SO_REUSEADDR` can be bound to the same
    /// port while none of them listens. Then one of them may listen.
    _reserved: TcpSocket,
}

impl Port {
    /// Reserves a free port.
    pub(super) fn reserve() -> io::Result<Self> {
        let socket = Self::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: socket.local_addr()?,
            _reserved: socket,
        })
    }

    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        Self::bind(self.address)?.listen(1024)
    }

    fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    }
}
