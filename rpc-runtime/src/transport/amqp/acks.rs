//! Telling the broker what is settled: a little later, and so of several deliveries at once.
//!
//! An acknowledgement costs the broker and lapin about as much as a small message. What is not told when the connection is lost comes
//! again, and is known to have been answered, as any that was answered in the last moment.

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

use super::channel::{OpenChannel, Tasks};
use super::settling::{Settlement, Settling};
use crate::transport::{Panicked, caught};

/// How long the broker may hear nothing of a settled delivery. A timer's own tick comes on top.
const LATEST: Duration = Duration::from_millis(1);

/// The acknowledgements of one channel.
#[derive(Debug)]
pub(super) struct Acks {
    shared: Arc<Shared>,
    /// Where deliveries are settled, it tells the broker of them.
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    channel: Arc<OpenChannel>,
    settling: Mutex<Settling>,
    /// There is something to tell.
    some: Notify,
    /// There is so much that the broker may hold back what comes next.
    enough: Notify,
    at_once: u64,
    /// The broker is told of nothing for now.
    is_held: AtomicBool,
}

impl Acks {
    pub(super) fn start(channel: &Arc<OpenChannel>, prefetch: Option<u16>, tasks: &Tasks) -> Self {
        let shared = Arc::new(Shared {
            channel: Arc::clone(channel),
            settling: Mutex::default(),
            some: Notify::new(),
            enough: Notify::new(),
            at_once: u64::from(prefetch.unwrap_or(u16::MAX) / 8).max(1),
            is_held: AtomicBool::new(false),
        });
        let telling = Arc::clone(&shared).tell_until_panic();
        let ending = tasks.ending.clone();
        let task = tasks.spawn(async move {
            ending.run_until_cancelled(telling).await;
        });
        Self {
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Notes what is settled.
    pub(super) fn note(&self, settle: impl FnOnce(&mut Settling)) {
        let (before, now) = {
            let mut settling = self.shared.lock();
            let before = settling.untold();
            settle(&mut settling);
            (before, settling.untold())
        };
        if before == 0 {
            self.shared.some.notify_one();
        }
        if before < self.shared.at_once && now >= self.shared.at_once {
            self.shared.enough.notify_one();
        }
    }

    /// Tells the broker of nothing more before [`hand_on`](Self::hand_on).
    pub(super) fn hold(&self) {
        self.shared.is_held.store(true, Ordering::Release);
    }

    /// Hands on all that the broker was not told of: it leaves before all that is sent by this channel later.
    pub(super) fn hand_on(&self) {
        self.shared.is_held.store(false, Ordering::Release);
        drop(self.shared.hand_on());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Settling> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the broker for as long as the channel lasts. After a panic some may never be told, so the channel is given up: the broker
    /// delivers again what it was not told of.
    async fn tell_until_panic(self: Arc<Self>) {
        let telling = caught("acknowledgements", Arc::clone(&self).tell_for_ever());
        let Err(Panicked { .. }) = telling.await;
        self.channel.close().await;
    }

    async fn tell_for_ever(self: Arc<Self>) -> Infallible {
        loop {
            self.some.notified().await;
            let _ = timeout(LATEST, self.enough.notified()).await;
            for acknowledging in self.hand_on() {
                // Who loses the channel loses the consumer too, and hears of it there.
                let _ = self.channel.answer(acknowledging).await;
            }
        }
    }

    /// Hands acknowledgements to lapin, in their order: it queues a frame when it is first polled.
    fn hand_on(&self) -> Vec<BoxFuture<'static, lapin::Result<()>>> {
        let mut handed_on = Vec::new();
        if self.is_held.load(Ordering::Acquire) {
            return handed_on;
        }
        let mut settling = self.lock();
        for settlement in settling.take() {
            let mut telling = tell(Arc::clone(&self.channel), settlement);
            match telling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                std::task::Poll::Pending => handed_on.push(telling),
                std::task::Poll::Ready(_) => {}
            }
        }
        handed_on
    }
}

fn tell(channel: Arc<OpenChannel>, settlement: Settlement) -> BoxFuture<'static, lapin::Result<()>> {
    match settlement {
        Settlement::Ack { tag, multiple } => {
            Box::pin(async move { channel.basic_ack(tag, BasicAckOptions { multiple }).await })
        }
        Settlement::Reject { tag } => {
            let options = BasicRejectOptions { requeue: false };
            Box::pin(async move { channel.basic_reject(tag, options).await })
        }
    }
}
