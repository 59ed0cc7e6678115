//! Sends acknowledgements a moment later, several deliveries at once.
//!
//! An acknowledgement costs the broker and lapin about as much as a small message. Deliveries that
//! are not acknowledged when the connection is lost come again. The layers above know that they
//! were answered, as they do for any delivery that was answered just before a loss.

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
use crate::transport::{Panicked, caught};

/// How long an acknowledgement may wait for others. The timer's own tick is added.
const MAX_DELAY: Duration = Duration::from_millis(1);

/// The acknowledgements of one channel.
#[derive(Debug)]
pub(super) struct Acks {
    shared: Arc<Shared>,
    /// Sends acknowledgements.
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    channel: Arc<OpenChannel>,
    batcher: Mutex<AckBatcher>,
    /// Something waits to be sent.
    has_some: Notify,
    /// `flush_at` acknowledgements wait to be sent.
    has_enough: Notify,
    /// With so many waiting acknowledgements, the prefetch may keep the broker from delivering.
    flush_at: u64,
    /// Nothing is sent for now.
    is_held: AtomicBool,
}

impl Acks {
    pub(super) fn start(channel: &Arc<OpenChannel>, prefetch: Option<u16>, tasks: &TaskGroup) -> Self {
        let shared = Arc::new(Shared {
            channel: Arc::clone(channel),
            batcher: Mutex::default(),
            has_some: Notify::new(),
            has_enough: Notify::new(),
            flush_at: u64::from(prefetch.unwrap_or(u16::MAX) / 8).max(1),
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

    /// Records acknowledgements, to be sent soon.
    pub(super) fn record(&self, record: impl FnOnce(&mut AckBatcher)) {
        let (before, now) = {
            let mut batcher = self.shared.lock();
            let before = batcher.unsent();
            record(&mut batcher);
            (before, batcher.unsent())
        };
        if before == 0 {
            self.shared.has_some.notify_one();
        }
        if before < self.shared.flush_at && now >= self.shared.flush_at {
            self.shared.has_enough.notify_one();
        }
    }

    /// Sends nothing more until [`flush`](Self::flush).
    pub(super) fn hold(&self) {
        self.shared.is_held.store(true, Ordering::Release);
    }

    /// Hands all waiting acknowledgements to lapin, which sends them before anything that is sent
    /// through this channel later.
    pub(super) fn flush(&self) {
        self.shared.is_held.store(false, Ordering::Release);
        drop(self.shared.flush());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, AckBatcher> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done.
        self.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends acknowledgements for as long as the channel lasts. After a panic some may never be
    /// sent, so the channel is closed, and the broker delivers again what was not acknowledged.
    async fn send_until_panic(self: Arc<Self>) {
        let sending = caught("acknowledgements", Arc::clone(&self).send_forever());
        let Err(Panicked { .. }) = sending.await;
        self.channel.close().await;
    }

    async fn send_forever(self: Arc<Self>) -> Infallible {
        loop {
            self.has_some.notified().await;
            let _ = timeout(MAX_DELAY, self.has_enough.notified()).await;
            for sending in self.flush() {
                // If the channel is lost, the consumer's stream reports it.
                let _ = self.channel.answer(sending).await;
            }
        }
    }

    /// Hands acknowledgements to lapin, in order: lapin queues a frame at the first poll.
    fn flush(&self) -> Vec<BoxFuture<'static, lapin::Result<()>>> {
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
