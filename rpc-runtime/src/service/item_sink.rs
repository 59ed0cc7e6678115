//! Where the items of a method's stream go.

use std::fmt::Debug;

use futures_util::future::BoxFuture;

use crate::protocol::{Fault, Items};
use crate::sync::watch;

/// How many items the sender of a stream may send in total.
#[derive(Debug)]
pub(crate) struct Credit(watch::Sender<u64>);

impl Credit {
    pub(crate) fn new(credit: u64) -> Self {
        Self(watch::Sender::new(credit))
    }

    /// Raises the credit. An earlier grant that arrives late changes nothing.
    pub(crate) fn raise(&self, credit: u64) {
        self.0.send_modify(|current| *current = credit.max(*current));
    }

    pub(crate) fn get(&self) -> u64 {
        *self.0.subscribe().borrow()
    }

    /// Waits until it is more than `sent`. Cancel safe.
    pub(super) async fn more_than(&self, sent: u64) {
        // Fails only if the sender is dropped.
        let _ = self.0.subscribe().wait_for(|credit| *credit > sent).await;
    }
}

/// Where the items of a stream go.
pub(crate) trait ItemSink: Debug + Send + Sync {
    fn credit(&self) -> &Credit;

    /// How many items were sent.
    fn sent(&self) -> u64;

    /// Waits until another message may be sent. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the caller is gone.
    fn ready(&self) -> BoxFuture<'_, Result<(), Fault>>;

    /// Sends a message.
    fn send(&self, items: Items);
}
