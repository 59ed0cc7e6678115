//! Publishing through one channel: whoever has a message hands it to lapin, and one task waits for all confirms.
//!
//! lapin takes a confirm's number and queues the message's frames under two locks: two tasks that publish at once can
//! swap their confirms. Both happen when the publish is first polled, so that is done under a lock of ours. The frames of
//! those that publish at the same time still leave in one write.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channel::{OpenChannel, Tasks};
use super::connection::ConnectionState;
use super::under_way::{Confirmed, Confirming, Look, Told, UnderWay};
use crate::error::{BrokerError, Cause};
use crate::transport::{Outgoing, Published, Publisher, Receipt, caught};

/// How much may be under way and not confirmed, in KiB: as much as a broker that takes its time makes a handle hold.
const ROOM: u32 = 64 * 1024;

/// What the smallest message takes of it, so that no more than 4096 are under way.
const SMALLEST: u32 = 16;

/// Sends through one channel.
#[derive(Debug)]
pub(super) struct AmqpPublisher {
    shared: Arc<Shared>,
    connection: watch::Receiver<ConnectionState>,
}

/// What those that send and the task have in common.
#[derive(Debug)]
struct Shared {
    channel: Arc<OpenChannel>,
    under_way: Mutex<UnderWay>,
    /// For messages that are not confirmed. Closed where nothing can be sent any more.
    room: Semaphore,
    /// Why the channel can send no more; nothing while it can.
    lost: watch::Sender<Option<BrokerError>>,
    /// The task has something to look at.
    news: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        // A panic in lapin leaves a message that is never confirmed, as a lost connection would.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a message to lapin; it has its place in the room.
    fn send(&self, outgoing: Outgoing, receipt: Arc<dyn Receipt>, in_a_row: usize) {
        let room = room_for(&outgoing);
        let sent = self.lock().send(&self.channel, outgoing, receipt, room, in_a_row);
        match sent {
            Ok(Look::Now) => self.news.notify_one(),
            Ok(Look::Later) => {}
            Err(told) => self.tell([told]),
        }
    }

    /// Tells what became of messages, which are not under way any more. Never under the lock: who is told may send the next one.
    fn tell(&self, told: impl IntoIterator<Item = Told>) {
        for Told {
            receipt,
            published,
            room,
        } in told
        {
            self.room.add_permits(room as usize);
            receipt.published(published);
        }
    }

    /// Tells of all messages that nothing more will be heard of them, without another look at their confirms.
    fn abandon(&self, reason: BrokerError) {
        self.room.close();
        let told = {
            let mut under_way = self.lock();
            let (told, reason) = under_way.abandon(reason);
            self.lost.send_replace(Some(reason));
            told
        };
        self.tell(told);
    }
}

fn room_for(outgoing: &Outgoing) -> u32 {
    let size = outgoing.message.body.len().div_ceil(1024);
    u32::try_from(size).unwrap_or(u32::MAX).clamp(SMALLEST, ROOM)
}

impl AmqpPublisher {
    /// Starts the task of a channel in confirm mode. It ends with the publisher or the transport.
    ///
    /// While the broker blocks the connection no message is taken: those that wait for it can still be withdrawn.
    pub(super) fn start(channel: Arc<OpenChannel>, tasks: &Tasks) -> Self {
        let connection = channel.connection();
        let shared = Arc::new(Shared {
            channel,
            under_way: Mutex::default(),
            room: Semaphore::new(ROOM as usize),
            lost: watch::Sender::new(None),
            news: Notify::new(),
        });
        let task = Task {
            shared: Arc::clone(&shared),
            connection: connection.clone(),
            confirming: FuturesUnordered::new(),
            has_ended: false,
        };
        tasks.spawn(task.run_to_its_end(tasks.ending.clone()));
        Self { shared, connection }
    }

    fn is_blocked(&self) -> bool {
        self.connection.borrow().blocked.is_some()
    }

    /// Waits until the broker reads what is published, or the connection is lost: a message that waits here is dropped
    /// with its call. Cancel safe.
    async fn unblocked(&self) {
        if self.is_blocked() {
            let is_over = |state: &ConnectionState| state.blocked.is_none() || state.lost.is_some();
            // It fails where the connection is gone, which the task finds out.
            let _ = self.connection.clone().wait_for(is_over).await;
        }
    }
}

#[async_trait]
impl Publisher for AmqpPublisher {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        in_a_row: usize,
    ) -> Result<(), Box<Outgoing>> {
        if self.is_blocked() {
            return Err(Box::new(outgoing));
        }
        match self.shared.room.try_acquire_many(room_for(&outgoing)) {
            Ok(room) => room.forget(),
            Err(_) => return Err(Box::new(outgoing)),
        }
        self.shared.send(outgoing, receipt, in_a_row);
        Ok(())
    }

    async fn ready(&self) {
        self.unblocked().await;
        // There is none where nothing can be sent any more; who publishes then hears of it.
        let _ = self.shared.room.acquire_many(SMALLEST).await;
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        loop {
            self.unblocked().await;
            match self.shared.room.acquire_many(room_for(&outgoing)).await {
                // It may have waited for long.
                Ok(_) if self.is_blocked() && !self.connection.borrow().is_lost() => {}
                Ok(room) => {
                    room.forget();
                    break;
                }
                Err(_) => {
                    return Published::Failed {
                        source: self.closed().await,
                        written: false,
                    };
                }
            }
        }
        let departure = outgoing.departure.clone();
        let (receipt, told) = Awaited::new();
        self.shared.send(outgoing, receipt, 1);
        match told.await {
            Ok(published) => published,
            // All are told, unless a receipt is lost in a panic.
            Err(_) => Published::Failed {
                source: self.closed().await,
                written: !departure.withdraw(),
            },
        }
    }

    async fn closed(&self) -> BrokerError {
        let mut lost = self.shared.lost.subscribe();
        match lost.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            // The sender is lent, so it is still there.
            Ok(None) | Err(_) => BrokerError::Closed,
        }
    }
}

impl Drop for AmqpPublisher {
    fn drop(&mut self) {
        self.shared.lock().is_left = true;
        self.shared.news.notify_one();
    }
}

/// A receipt that is waited for.
struct Awaited(Mutex<Option<oneshot::Sender<Published>>>);

impl Awaited {
    fn new() -> (Arc<Self>, oneshot::Receiver<Published>) {
        let (sender, told) = oneshot::channel();
        (Arc::new(Self(Mutex::new(Some(sender)))), told)
    }
}

impl Receipt for Awaited {
    fn published(self: Arc<Self>, published: Published) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // Nobody listens where the reply came before the confirm, or the call was given up.
            let _ = sender.send(published);
        }
    }
}

/// Waits for the broker's word on all that is under way.
struct Task {
    shared: Arc<Shared>,
    connection: watch::Receiver<ConnectionState>,
    confirming: FuturesUnordered<Confirming>,
    /// All messages have been told of.
    has_ended: bool,
}

impl Task {
    /// Runs, and tells of all messages however that ends.
    async fn run_to_its_end(mut self, ending: CancellationToken) {
        match caught("publisher", self.run(ending)).await {
            Ok(Some(reason)) => self.end(reason),
            // Nobody is left to be told.
            Ok(None) => self.has_ended = true,
            Err(panicked) => {
                self.abandon(panicked.into());
                // What was sent may be told of by nobody: the channel is of no more use.
                self.shared.channel.close().await;
            }
        }
    }

    /// Waits for the broker's word until nothing can be sent any more, and says why; nothing where nobody will send any more.
    async fn run(&mut self, ending: CancellationToken) -> Option<BrokerError> {
        let shared = Arc::clone(&self.shared);
        let mut ended = pin!(ending.cancelled());
        let mut is_look_due = false;
        let reason = loop {
            let (told, given_up_at, overdue, next_look, is_left) = {
                let mut under_way = shared.lock();
                self.confirming.extend(under_way.take_fresh());
                let told = match std::mem::take(&mut is_look_due) {
                    true => under_way.look(Instant::now()),
                    false => Vec::new(),
                };
                (
                    told,
                    under_way.given_up_at(),
                    under_way.next_overdue(),
                    under_way.next_look(),
                    under_way.is_left,
                )
            };
            shared.tell(told);
            if let Some(reason) = self.reason() {
                break reason;
            }
            if given_up_at.is_some() {
                shared.room.close();
            }
            // While there is a time to look, something may be sent that is not looked after yet.
            if self.confirming.is_empty() && next_look.is_none() {
                match (is_left, given_up_at) {
                    (true, _) => return None,
                    (false, Some(_)) => break refused_everything(),
                    (false, None) => {}
                }
            }
            tokio::select! {
                () = &mut ended => break BrokerError::Closed,
                Some(confirmed) = self.confirming.next() => {
                    let mut all = vec![confirmed];
                    all.extend(ready_of(&mut self.confirming));
                    let told = shared.lock().all_confirmed(all, Instant::now());
                    shared.tell(told);
                }
                () = shared.news.notified() => is_look_due = true,
                () = until(next_look) => is_look_due = true,
                () = until(overdue) => {
                    let confirmed = ready_of(&mut self.confirming);
                    let told = shared.lock().overdue(confirmed, Instant::now());
                    shared.tell(told);
                }
                () = until(given_up_at) => break refused_everything(),
                changed = self.connection.changed() => if changed.is_err() {
                    break BrokerError::Lost { source: None };
                },
            }
        };
        Some(reason)
    }

    /// Why nothing can be sent any more.
    fn reason(&self) -> Option<BrokerError> {
        let of_channel = self.shared.lock().lost().cloned();
        of_channel.or_else(|| self.connection.borrow().lost.clone())
    }

    fn abandon(&mut self, reason: BrokerError) {
        self.has_ended = true;
        self.shared.abandon(reason);
    }

    /// Tells of all messages: nothing more will be heard of them.
    fn end(&mut self, reason: BrokerError) {
        self.has_ended = true;
        self.shared.room.close();
        let told = {
            let mut under_way = self.shared.lock();
            self.confirming.extend(under_way.take_fresh());
            let confirmed = ready_of(&mut self.confirming);
            let mut told = under_way.all_confirmed(confirmed, Instant::now());
            let (others, reason) = under_way.end(reason);
            told.extend(others);
            self.shared.lost.send_replace(Some(reason));
            told
        };
        self.shared.tell(told);
    }
}

impl Drop for Task {
    /// Its runtime has ended, or it was told to end and panicked over it.
    fn drop(&mut self) {
        if !self.has_ended {
            self.abandon(BrokerError::RuntimeEnded);
        }
    }
}

/// Those that are confirmed by now.
fn ready_of(confirming: &mut FuturesUnordered<Confirming>) -> Vec<Confirmed> {
    std::iter::from_fn(|| confirming.next().now_or_never().flatten()).collect()
}

/// Why a channel is given up that the broker does not close.
fn refused_everything() -> BrokerError {
    let source = Cause::new("a queue refused for ten seconds all that came by this channel");
    BrokerError::Lost { source: Some(source) }
}

/// Waits until then, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
