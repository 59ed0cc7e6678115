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

    /// Returns the connections of this target, open or not.
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

    /// Waits until new connections are not silenced, then connects to the broker.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let mut rules = self.rules.subscribe();
        let served = rules.wait_for(|rules| !rules.silences_new()).await;
        drop(served.map_err(io::Error::other)?);
        TcpStream::connect(&self.broker).await
    }

    /// Waits until the port is open or closed, as the current rules require.
    pub(super) async fn port_follows_rules(&self) {
        let open = !self.rules.borrow().refuses_new();
        // Never an error: `self` keeps the sender alive.
        let _ = self.open.subscribe().wait_for(|&is_open| is_open == open).await;
    }

    /// Has each trigger track this piece. Returns after how many of its bytes the connection is
    /// cut, or `None` if it is not.
    pub(super) fn cut_within(&self, link: &Arc<Link>, way: Way, piece: &[u8]) -> Option<usize> {
        let triggers = self.triggers.lock().unwrap_or_else(PoisonError::into_inner);
        let cuts = triggers
            .iter()
            .filter_map(|trigger| trigger.follow(link, way, piece));
        cuts.min()
    }
}
