//! Where the items of a method's stream go.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use crate::protocol::{Fault, ItemWriter, Volume};
use crate::sync::watch;

/// What the sender of a stream may send in total.
#[derive(Debug)]
pub(crate) struct Credit(watch::Sender<Granted>);

#[derive(Debug)]
struct Granted {
    credit: Volume,
    /// How many grants have arrived.
    grants: u64,
}

impl Credit {
    pub(crate) fn new(credit: Volume) -> Self {
        Self(watch::Sender::new(Granted { credit, grants: 0 }))
    }

    /// Records a grant, and raises the credit to it. An earlier grant that arrives late does not
    /// lower the credit.
    pub(crate) fn raise(&self, credit: Volume) {
        self.0.send_modify(|granted| {
            granted.credit = credit.max(granted.credit);
            granted.grants += 1;
        });
    }

    pub(crate) fn get(&self) -> Volume {
        self.0.subscribe().borrow().credit
    }

    /// How many grants have arrived, including those that did not raise the credit.
    pub(super) fn grants(&self) -> u64 {
        self.0.subscribe().borrow().grants
    }

    /// Waits until another item may be sent after these. Cancel safe.
    pub(super) async fn wait_for_more_than(&self, sent: Volume) {
        let mut credit = self.0.subscribe();
        // Fails only if the sender is dropped.
        let _ = credit
            .wait_for(|granted| granted.credit.allows_more_than(sent))
            .await;
    }
}

/// The right to send one message of a stream. A sink that limits its unconfirmed messages holds the
/// permit until the message is confirmed.
#[derive(Debug, Default)]
pub(crate) struct SendPermit {
    _held: Option<OwnedSemaphorePermit>,
}

impl SendPermit {
    pub(crate) fn holding(permit: OwnedSemaphorePermit) -> Self {
        Self { _held: Some(permit) }
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
    /// Returns why no more messages can be sent: the caller is gone, for example.
    fn reserve(&self) -> BoxFuture<'_, Result<SendPermit, Fault>>;

    /// Whether the caller can get further items after it has lost its connection.
    fn survives_connection(&self) -> bool;

    /// Sends a message. `first` is the number of its first item, or of the next one if it has none.
    /// `credit` is the latest credit that has arrived.
    fn send(&self, permit: SendPermit, first: u64, items: ItemWriter, credit: Volume);
}
