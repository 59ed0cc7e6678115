//! The state of a connection that three parties share: the tasks that publish, lapin, and the
//! [driver](super::driver).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::decode::Confirm;
use super::demux::Receiver;
use super::encode::{self, Acknowledgement};
use super::outbox::Outbox;
use super::pipe::Pipe;
use crate::error::BrokerError;
use crate::protocol::{Message, ShortStr};
use crate::transport::Delivery;

/// The shared state of one connection.
///
/// "Our" frames are those of content, which the channels append. All others come from lapin.
pub(in super::super) struct Wire {
    shared: Mutex<Shared>,
    /// Wakes the driver.
    pub(super) driver_waker: AtomicWaker,
    /// How many bytes of our frames the socket has taken. After a write over TLS has failed, this
    /// includes those that it may have taken.
    pub(super) written: AtomicU64,
    /// Cancelled once the connection has ended.
    ended: CancellationToken,
}

#[derive(Default)]
pub(super) struct Shared {
    /// Our frames that the driver has not taken yet.
    ours: Outbox,
    /// How many bytes were ever added to `ours`.
    appended: u64,
    /// The channels that were attached since the driver last took them.
    attached: Vec<Arc<ContentChannel>>,
    /// The channels that lapin has not closed. No frame may follow on a closed one.
    open: HashMap<u16, Arc<ContentChannel>, RandomState>,
    pub(super) pipe: Pipe,
}

/// What happened outside of the driver.
pub(super) struct News {
    /// The channels that were attached since the last call.
    pub(super) attached: Vec<Arc<ContentChannel>>,
    /// Whether so much waits for lapin that reading has to pause.
    pub(super) is_full: bool,
    /// Whether lapin has closed its end.
    pub(super) is_lapin_done: bool,
}

impl Wire {
    pub(super) fn new(max_frame: usize) -> Arc<Self> {
        let shared = Shared {
            pipe: Pipe::new(max_frame),
            ..Shared::default()
        };
        Arc::new(Self {
            shared: Mutex::new(shared),
            driver_waker: AtomicWaker::new(),
            written: AtomicU64::new(0),
            ended: CancellationToken::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while the lock is held: an allocation that fails ends the process.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the content of a channel that lapin has opened. `is_open` is false if the channel
    /// was closed since. Then, or if the connection has ended, nothing can be sent through it.
    pub(in super::super) fn attach(
        self: &Arc<Self>,
        number: u16,
        max_frame: usize,
        is_open: bool,
    ) -> Arc<ContentChannel> {
        let content = Arc::new(ContentChannel {
            number,
            max_frame,
            wire: Arc::clone(self),
            deliveries: OnceLock::new(),
            confirms: OnceLock::new(),
            closed: OnceLock::new(),
        });
        let mut shared = self.lock();
        if !is_open {
            let _ = content.closed.set(BrokerError::Lost { source: None });
        } else if !shared.pipe.has_ended() {
            shared.open.insert(number, Arc::clone(&content));
            shared.attached.push(Arc::clone(&content));
        }
        content
    }

    /// Takes the frames to write: ours into `ours`, which must be empty, and lapin's whole frames
    /// into `lapin`. Ours are written first, so they precede lapin's close of their channel. From
    /// then on, nothing can be sent through a channel that lapin closes.
    pub(super) fn take(&self, ours: &mut Outbox, lapin: &mut Vec<u8>) {
        let mut shared = self.lock();
        std::mem::swap(&mut shared.ours, ours);
        let shared = &mut *shared;
        shared.pipe.take_frames(lapin, |closed| {
            shared.open.remove(&closed);
        });
    }

    /// Returns how many bytes of our frames the driver has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.lock().ours.len()
    }

    /// Takes what the driver has to know before it reads more.
    pub(super) fn take_news(&self) -> News {
        let mut shared = self.lock();
        News {
            attached: std::mem::take(&mut shared.attached),
            is_full: shared.pipe.is_full(),
            is_lapin_done: shared.pipe.is_lapin_done,
        }
    }

    /// Ends the connection: nothing more passes through the socket. lapin still reads what has
    /// arrived for it, and then the error, or the end of the stream. Later calls change nothing.
    pub(super) fn end(&self, error: Option<io::Error>) {
        let mut shared = self.lock();
        shared.open.clear();
        shared.attached.clear();
        shared.ours = Outbox::default();
        shared.pipe.end(error);
        drop(shared);
        self.ended.cancel();
    }

    /// Waits until the connection has ended. Cancel safe.
    pub(in super::super) async fn wait_ended(&self) {
        self.ended.cancelled().await;
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// Receives the broker's reports about the messages that a channel has published.
pub(in super::super) trait ConfirmSink: Send + Sync {
    /// A published message could not be routed. Its confirm follows. `id` is the token of a copy,
    /// or else the correlation id.
    fn returned(&self, routing_key: &ShortStr, id: Option<&ShortStr>);

    fn confirmed(&self, confirm: Confirm);

    /// The channel is closed: nothing more is confirmed.
    fn closed(&self, reason: BrokerError);
}

/// The content of one channel: publishes and acknowledges, and receives deliveries and confirms.
pub(in super::super) struct ContentChannel {
    number: u16,
    /// The maximum size of a frame, in bytes.
    max_frame: usize,
    wire: Arc<Wire>,
    deliveries: OnceLock<mpsc::UnboundedSender<Delivery>>,
    confirms: OnceLock<Weak<dyn ConfirmSink>>,
    /// Why the channel is closed. Not set by the end of its connection.
    closed: OnceLock<BrokerError>,
}

/// Why a message was not sent.
#[derive(Debug)]
pub(in super::super) enum NotSent {
    ChannelClosed,
    ConnectionLost,
    Unsendable(BrokerError),
}

impl ContentChannel {
    /// The deliveries to the channel from now on. Must be called once, before the channel consumes.
    /// They are bounded by the prefetch, if the consumer acknowledges them.
    pub(in super::super) fn deliveries(&self) -> mpsc::UnboundedReceiver<Delivery> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Each channel has one consumer. A second one would get no deliveries.
        let _ = self.deliveries.set(sender);
        receiver
    }

    /// Sends the confirms of the channel to this sink from now on. Must be called once, before the
    /// channel publishes.
    pub(in super::super) fn report_confirms(self: &Arc<Self>, sink: Weak<dyn ConfirmSink>) {
        let _ = self.confirms.set(sink);
        // The channel may have been closed before there was a sink.
        if let Some(reason) = self.closed.get() {
            Receiver::closed(self, reason.clone());
        }
    }

    /// Publishes a message. Returns the position of its end: how many bytes of our frames the
    /// connection has then been given.
    pub(in super::super) fn publish(
        self: &Arc<Self>,
        exchange: &str,
        routing_key: &ShortStr,
        mandatory: bool,
        message: &Message,
    ) -> Result<u64, NotSent> {
        self.append(|out| {
            encode::publish(
                out,
                self.number,
                self.max_frame,
                (exchange, routing_key),
                mandatory,
                message,
            )
            .map_err(NotSent::Unsendable)
        })
    }

    /// Sends acknowledgements and rejects. Does nothing if the channel is closed or the connection
    /// has ended.
    pub(in super::super) fn acknowledge(self: &Arc<Self>, all: impl IntoIterator<Item = Acknowledgement>) {
        // In both cases, the broker delivers the messages again.
        let _ = self.append(|out| {
            for each in all {
                encode::acknowledge(out.end(), self.number, each);
            }
            Ok(())
        });
    }

    /// Whether everything up to this position counts as [written](Wire::written).
    pub(in super::super) fn is_written(&self, position: u64) -> bool {
        self.wire.written.load(Ordering::Acquire) >= position
    }

    /// Whether everything up to this position [is written](Self::is_written), or may still be.
    pub(in super::super) fn may_be_written(&self, position: u64) -> bool {
        // In this order: what the connection writes last is counted before it ends.
        !self.wire.lock().pipe.has_ended() || self.is_written(position)
    }

    /// Lets `encode` append frames, and wakes the driver if none waited. Returns the position of
    /// their end, as [`publish`](Self::publish) does.
    fn append(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut Outbox) -> Result<(), NotSent>,
    ) -> Result<u64, NotSent> {
        let (was_empty, position) = {
            let mut shared = self.wire.lock();
            let open = shared.open.get(&self.number);
            let is_open = open.is_some_and(|open| Arc::ptr_eq(open, self));
            if !is_open {
                return Err(match shared.pipe.has_ended() {
                    true => NotSent::ConnectionLost,
                    false => NotSent::ChannelClosed,
                });
            }
            let before = shared.ours.len();
            encode(&mut shared.ours)?;
            shared.appended += (shared.ours.len() - before) as u64;
            (before == 0, shared.appended)
        };
        if was_empty {
            self.wire.driver_waker.wake();
        }
        Ok(position)
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    fn confirms(&self) -> Option<Arc<dyn ConfirmSink>> {
        self.confirms.get()?.upgrade()
    }
}

impl Receiver for Arc<ContentChannel> {
    fn delivered(&self, delivery: Delivery) {
        if let Some(deliveries) = self.deliveries.get() {
            // If the receiver is gone, its channel is about to be closed, and the broker delivers
            // the message again.
            let _ = deliveries.send(delivery);
        }
    }

    fn returned(&self, routing_key: &ShortStr, id: Option<&ShortStr>) {
        if let Some(confirms) = self.confirms() {
            confirms.returned(routing_key, id);
        }
    }

    fn confirmed(&self, confirm: Confirm) {
        if let Some(confirms) = self.confirms() {
            confirms.confirmed(confirm);
        }
    }

    fn closed(&self, reason: BrokerError) {
        let reason = self.closed.get_or_init(|| reason).clone();
        if let Some(confirms) = self.confirms() {
            confirms.closed(reason);
        }
    }
}

impl fmt::Debug for ContentChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "content of channel {}", self.number)
    }
}
