//! The port of a proxy, and the task that accepts and owns its connections.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{Target, cut::Trigger, link::Link, rules::Rules};

/// State that the parts of a proxy share.
#[derive(Debug)]
pub(super) struct Shared {
    broker: String,
    pub(super) rules: watch::Sender<Rules>,
    /// Whether the port is open.
    open: watch::Sender<bool>,
    /// All connections so far, in the order of acceptance.
    links: Mutex<Vec<Arc<Link>>>,
    pub(super) triggers: Mutex<Vec<Arc<Trigger>>>,
}

impl Shared {
    pub(super) fn new(broker: String) -> Self {
        Self {
            broker,
            rules: watch::Sender::default(),
            open: watch::Sender::new(true),
            links: Mutex::default(),
            triggers: Mutex::default(),
        }
    }

    pub(super) fn links(&self, target: Target) -> Vec<Arc<Link>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter(|link| link.is(target)).cloned().collect()
    }

    /// Accepts connections and owns them: aborting it closes them.
    pub(super) async fn accept(self: Arc<Self>, port: Port, first: TcpListener) {
        let mut connections = JoinSet::new();
        let mut rules = self.rules.subscribe();
        // The rules may have changed before this task started.
        rules.mark_changed();
        let mut listener = Some(first);
        loop {
            self.open.send_replace(listener.is_some());
            tokio::select! {
                biased;
                Ok(()) = rules.changed() => {
                    let refused = rules.borrow_and_update().refuse();
                    listener = match listener {
                        _ if refused => None,
                        None => Some(port.listen().expect("the port is reserved for us")),
                        open => open,
                    };
                }
                Some(ended) = connections.join_next() => ended.expect("a connection does not panic"),
                Some(accepted) = async { Some(listener.as_ref()?.accept().await) } => {
                    // The client may have disconnected since.
                    if let Ok((client, _)) = accepted {
                        let link = self.new_link();
                        connections.spawn(link.serve(self.clone(), client));
                    }
                }
            }
        }
    }

    fn new_link(&self) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = Arc::new(Link::new(links.len()));
        links.push(link.clone());
        link
    }

    /// Connects to the broker, once new connections are served.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let mut rules = self.rules.subscribe();
        let served = rules.wait_for(|rules| !rules.silence()).await;
        drop(served.map_err(io::Error::other)?);
        TcpStream::connect(&self.broker).await
    }

    /// Waits until the port is open or closed, as the current rules require.
    pub(super) async fn door_moved(&self) {
        let open = !self.rules.borrow().refuse();
        // This fails if the proxy was dropped. Then there is nothing to wait for.
        let _ = self.open.subscribe().wait_for(|&is_open| is_open == open).await;
    }
}

/// A port that stays reserved while nobody listens on it.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    /// Bound, but not listening. On Linux, sockets that all allow it can share a port as long as
    /// one of them listens.
    _reserved: TcpSocket,
}

impl Port {
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
