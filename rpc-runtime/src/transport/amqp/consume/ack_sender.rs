//! Batches acknowledgements for up to 1 ms.
//!
//! An acknowledgement costs the broker and lapin about as much as a small message. If the
//! connection is lost before an acknowledgement is sent, the broker delivers the message again. The
//! layers above recognise a message that they have answered already.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::super::channel::OpenChannel;
use super::super::task_group::TaskGroup;
use super::ack_batcher::{AckBatcher, Acknowledgement};
use crate::transport::{Panicked, catch_panic};

/// How long an acknowledgement may wait for others. The timer may add up to its resolution.
const MAX_DELAY: Duration = Duration::from_millis(1);

/// Sends the acknowledgements of one channel.
#[derive(Debug)]
pub(super) struct AckSender {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    channel: Arc<OpenChannel>,
    batcher: Mutex<AckBatcher>,
    /// Notified when the first acknowledgement of a batch waits.
    first_waiting: Notify,
    /// Notified when `threshold` acknowledgements wait.
    threshold_reached: Notify,
    /// A batch with this many acknowledgements, an eighth of the prefetch, is sent at once. With
    /// many more of them waiting, the prefetch would keep the broker from delivering.
    threshold: u64,
    /// Whether acknowledgements are held back.
    is_held: AtomicBool,
}

impl AckSender {
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

    /// Calls `add` to add acknowledgements to the batch, which is sent soon.
    pub(super) fn record(&self, add: impl FnOnce(&mut AckBatcher)) {
        let (before, now) = {
            let mut batcher = self.shared.lock();
            let before = batcher.unsent();
            add(&mut batcher);
            (before, batcher.unsent())
        };
        if before == 0 {
            self.shared.first_waiting.notify_one();
        }
        if before < self.shared.threshold && now >= self.shared.threshold {
            self.shared.threshold_reached.notify_one();
        }
    }

    /// Sends nothing more until [`flush`](Self::flush).
    pub(super) fn hold(&self) {
        self.shared.is_held.store(true, Ordering::Release);
    }

    /// Stops holding acknowledgements back, and hands all that wait to lapin. lapin sends them
    /// before anything that is sent through this channel later.
    pub(super) fn flush(&self) {
        self.shared.is_held.store(false, Ordering::Release);
        // lapin has queued them. Nothing has to wait until they are written.
        drop(self.shared.enqueue());
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
            for sending in self.enqueue() {
                // If the channel is lost, the consumer's stream reports it.
                let _ = self.channel.wait_answer(sending).await;
            }
        }
    }

    /// Hands acknowledgements to lapin in order, unless they are held back. Returns those that lapin
    /// has yet to send. lapin queues a frame at the first poll.
    fn enqueue(&self) -> Vec<BoxFuture<'static, lapin::Result<()>>> {
        let mut pending = Vec::new();
        if self.is_held.load(Ordering::Acquire) {
            return pending;
        }
        let mut batcher = self.lock();
        for acknowledgement in batcher.take() {
            let mut sending = send(Arc::clone(&self.channel), acknowledgement);
            let polled = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if polled.is_pending() {
                pending.push(sending);
            }
        }
        pending
    }
}

fn send(
    channel: Arc<OpenChannel>,
    acknowledgement: Acknowledgement,
) -> BoxFuture<'static, lapin::Result<()>> {
    match acknowledgement {
        Acknowledgement::Ack { tag, multiple } => {
            Box::pin(async move { channel.basic_ack(tag, BasicAckOptions { multiple }).await })
        }
        Acknowledgement::Reject { tag } => {
            let options = BasicRejectOptions { requeue: false };
            Box::pin(async move { channel.basic_reject(tag, options).await })
        }
    }
}
