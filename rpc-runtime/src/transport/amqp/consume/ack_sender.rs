//! Batches acknowledgements and rejects for up to 1 ms.
//!
//! An acknowledgement costs the broker about as much as a small message. If the connection is lost
//! before an acknowledgement is sent, the broker delivers the message again. The layers above
//! recognise a message that they have answered already.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::super::channel::OpenChannel;
use super::super::task_group::TaskGroup;
use super::ack_batcher::AckBatcher;
use crate::transport::{Panicked, catch_panic};

/// How long an acknowledgement may wait for others. The timer may add up to its resolution.
const MAX_DELAY: Duration = Duration::from_millis(1);

/// Sends the acknowledgements of one channel. Those that wait when this is dropped are not sent.
#[derive(Debug)]
pub(super) struct AckSender {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    channel: Arc<OpenChannel>,
    batcher: Mutex<AckBatcher>,
    /// Notified when the first acknowledgement of a batch begins to wait.
    first_waiting: Notify,
    /// Notified when `threshold` acknowledgements wait.
    threshold_reached: Notify,
    /// A batch with this many acknowledgements, an eighth of the prefetch, is sent at once. With
    /// many more of them waiting, the prefetch would keep the broker from delivering. Without a
    /// prefetch, an eighth of the largest one.
    threshold: u64,
    /// Whether acknowledgements are held back.
    is_held: AtomicBool,
}

impl AckSender {
    /// Starts the task that sends the acknowledgements of a channel with this prefetch.
    pub(super) fn start(channel: &Arc<OpenChannel>, prefetch: Option<u16>, tasks: &TaskGroup) -> Self {
        let shared = Arc::new(Shared {
            channel: Arc::clone(channel),
            batcher: Mutex::default(),
            first_waiting: Notify::new(),
            threshold_reached: Notify::new(),
            threshold: u64::from(prefetch.unwrap_or(u16::MAX) / 8).max(1),
            is_held: AtomicBool::new(false),
        });
        let sending = Arc::clone(&shared).send_until_panic();
        let ending = tasks.ending.clone();
        let task = tasks.spawn(async move {
            ending.run_until_cancelled(sending).await;
        });
        Self {
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Calls `add` to add acknowledgements to the batch, which is sent soon unless it is
    /// [held](Self::hold).
    pub(super) fn record(&self, add: impl FnOnce(&mut AckBatcher)) {
        let (unsent_before, unsent_after) = {
            let mut batcher = self.shared.lock();
            let unsent_before = batcher.unsent();
            add(&mut batcher);
            (unsent_before, batcher.unsent())
        };
        if unsent_before == 0 {
            self.shared.first_waiting.notify_one();
        }
        if unsent_before < self.shared.threshold && unsent_after >= self.shared.threshold {
            self.shared.threshold_reached.notify_one();
        }
    }

    /// Sends nothing more until [`flush`](Self::flush).
    pub(super) fn hold(&self) {
        self.shared.is_held.store(true, Ordering::Release);
    }

    /// Stops holding acknowledgements back, and sends all that wait. They precede everything that
    /// is sent through this channel later.
    pub(super) fn flush(&self) {
        self.shared.is_held.store(false, Ordering::Release);
        self.shared.send();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, AckBatcher> {
        // Each operation leaves the batcher consistent, so a panic elsewhere has broken nothing.
        self.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends acknowledgements until that panics. After a panic, some might never be sent, so this
    /// closes the channel, and the broker delivers the unacknowledged messages again.
    async fn send_until_panic(self: Arc<Self>) {
        let sending = catch_panic("acknowledgements", Arc::clone(&self).send_forever());
        let Err(Panicked { .. }) = sending.await;
        self.channel.close().await;
    }

    async fn send_forever(self: Arc<Self>) -> Infallible {
        loop {
            self.first_waiting.notified().await;
            let _ = timeout(MAX_DELAY, self.threshold_reached.notified()).await;
            self.send();
        }
    }

    /// Sends what waits, unless it is held back. If the channel is lost, sends nothing: the
    /// consumer's stream reports the loss.
    fn send(&self) {
        if self.is_held.load(Ordering::Acquire) {
            return;
        }
        // Locked until the frames are queued, so that their order is that of the batches.
        let mut batcher = self.lock();
        self.channel.content().acknowledge(batcher.take());
    }
}
