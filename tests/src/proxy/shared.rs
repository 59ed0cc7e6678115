//! What the parts of a proxy share.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpStream, sync::watch};

use super::{
    link::Link,
    rules::Rules,
    target::{Target, Way},
    trigger::Trigger,
};

/// State that the parts of a proxy share.
#[derive(Debug)]
pub(super) struct Shared {
    broker: String,
    pub(super) rules: watch::Sender<Rules>,
    /// Whether the port is open.
    pub(super) open: watch::Sender<bool>,
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

    /// Adds a connection that was just accepted.
    pub(super) fn new_link(&self) -> Arc<Link> {
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
    pub(super) async fn port_follows_rules(&self) {
        let open = !self.rules.borrow().refuse();
        // This fails if the proxy was dropped. Then there is nothing to wait for.
        let _ = self.open.subscribe().wait_for(|&is_open| is_open == open).await;
    }

    /// Returns after how many bytes of this piece the connection is cut, if it is cut in it.
    pub(super) fn cut_within(&self, link: &Arc<Link>, way: Way, piece: &[u8]) -> Option<usize> {
        let triggers = self.triggers.lock().unwrap_or_else(PoisonError::into_inner);
        let cuts = triggers
            .iter()
            .filter_map(|trigger| trigger.follow(link, way, piece));
        cuts.min()
    }
}
