//! The task that owns the socket of a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::super::guard::{FRAME_END, Filter, HEARTBEAT, Next, OutgoingFilter};
use super::demux::Demux;
use super::lapin_stream::LapinStream;
use super::shared::{ContentChannel, Wire};
use crate::transport::catch_panic;

/// How many bytes to read at once, beside a frame that has arrived in part.
const READ_SIZE: usize = 64 * 1024;

/// How many bytes to write at once.
const WRITE_SIZE: usize = 128 * 1024;

/// The largest buffer to keep while it is empty.
const MAX_KEPT: usize = 1024 * 1024;

/// How long the last bytes may take after lapin has closed its end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How often lapin hears that the broker is alive while only content arrives. The shortest
/// heartbeat is a second.
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// Starts to drive a connection that asks for frames of at most `max_frame` bytes, in a task of the
/// current runtime. The task ends with the connection. `is_encrypted` is whether the stream is
/// TLS.
pub(in super::super) fn start<S>(stream: S, is_encrypted: bool, max_frame: usize) -> (Arc<Wire>, LapinStream)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let wire = Wire::new(max_frame);
    let driver = Driver {
        stream,
        is_encrypted,
        wire: Arc::clone(&wire),
        filter: Filter::new(max_frame),
        demux: Demux::new(),
        buffer: Vec::new(),
        to_lapin: Vec::new(),
        lapin_fed_at: Instant::now(),
        outgoing: OutgoingFilter::new(),
        from_lapin: Vec::new(),
        out: Vec::new(),
        out_written: 0,
        out_ours: 0,
        ours_before: 0,
        close_limit: None,
        is_flush_due: false,
    };
    // After a panic, the driver is dropped, which ends the connection.
    tokio::spawn(catch_panic("socket", driver));
    (Arc::clone(&wire), LapinStream::new(wire))
}

struct Driver<S> {
    stream: S,
    is_encrypted: bool,
    wire: Arc<Wire>,

    filter: Filter,
    demux: Demux<Arc<ContentChannel>>,
    /// The bytes that were read last.
    buffer: Vec<u8>,
    /// What lapin gets of them.
    to_lapin: Vec<u8>,
    /// When lapin last got something.
    lapin_fed_at: Instant,

    outgoing: OutgoingFilter,
    /// Frames of lapin that have yet to pass the filter. Empty between polls.
    from_lapin: Vec<u8>,
    /// The frames that are being written: ours, then lapin's.
    out: Vec<u8>,
    out_written: usize,
    /// How many bytes of `out` are ours.
    out_ours: usize,
    /// How many bytes of ours were written before `out`.
    ours_before: u64,
    is_flush_due: bool,
    /// Set once lapin has closed its end: when to give up what is left to write.
    close_limit: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.wire.driver_waker.register(cx.waker());
        let ended = ready!(this.drive(cx));
        this.wire.end(ended.err());
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Writes and reads until both have to wait, or the connection ends.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // If lapin was done before this write, its last frames were in it.
            let was_lapin_done = self.close_limit.is_some();
            let written = match self.write(cx) {
                Poll::Ready(Err(error)) => {
                    // Confirms and the broker's reason may have arrived before.
                    while let Poll::Ready(Ok(1..)) = self.read(false, cx) {}
                    return Poll::Ready(Err(error));
                }
                written => written,
            };
            let is_full = self.take_news();
            if let Some(limit) = &mut self.close_limit {
                if limit.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                if written.is_ready() && was_lapin_done {
                    // An error means that the connection is closed already.
                    let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                    return Poll::Ready(Ok(()));
                }
                if written.is_ready() {
                    // lapin may have written its last frames meanwhile.
                    continue;
                }
            }
            if ready!(self.read(is_full, cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what happened outside of this task: takes over channels, and starts the time limit
    /// once lapin has closed its end. Returns whether reading has to pause until lapin has read.
    fn take_news(&mut self) -> bool {
        let news = self.wire.take_news();
        for content in news.attached {
            self.demux.attach(content.number(), content);
        }
        if news.is_lapin_done && self.close_limit.is_none() {
            self.close_limit = Some(Box::pin(tokio::time::sleep(CLOSE_LIMIT)));
        }
        news.is_full
    }

    /// Writes everything that is to be written.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.out_written < self.out.len() {
                let end = self.out.len().min(self.out_written + WRITE_SIZE);
                let unwritten = &self.out[self.out_written..end];
                let written = match ready!(Pin::new(&mut self.stream).poll_write(cx, unwritten)) {
                    Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                    written => written,
                };
                self.out_written = match &written {
                    Ok(written) => self.out_written + written,
                    // TLS may have sent a part before it failed.
                    Err(_) if self.is_encrypted => end,
                    Err(_) => self.out_written,
                };
                let ours = self.ours_before + self.out_written.min(self.out_ours) as u64;
                self.wire.written.store(ours, Ordering::Release);
                written?;
                self.is_flush_due = true;
            }
            self.take();
            if self.out.is_empty() {
                break;
            }
        }
        if self.is_flush_due {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_flush_due = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what is to be written next.
    fn take(&mut self) {
        self.out.clear();
        self.out.shrink_to(MAX_KEPT);
        self.ours_before = self.wire.take(&mut self.out, &mut self.from_lapin);
        self.out_ours = self.out.len();
        self.out_written = 0;
        let mut rest = &self.from_lapin[..];
        while !rest.is_empty() {
            match self.outgoing.next(rest) {
                Next::Write(len) => {
                    self.outgoing.wrote(&rest[..len]);
                    self.out.extend_from_slice(&rest[..len]);
                    rest = &rest[len..];
                }
                Next::Consumed(len) => {
                    self.out.extend_from_slice(self.outgoing.pending());
                    self.outgoing.wrote_pending(self.outgoing.pending().len());
                    rest = &rest[len..];
                }
            }
        }
        self.from_lapin.clear();
    }

    /// Reads once, unless lapin's pipe is full, and passes on what has arrived. Returns how many
    /// bytes that were: zero at the end of the connection.
    fn read(&mut self, is_full: bool, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if is_full {
            // lapin's next read wakes this task.
            return Poll::Pending;
        }
        // The filter fills the front with the bytes that it has held back.
        let held = self.filter.held();
        self.buffer.resize(held + READ_SIZE, 0);
        let mut into = ReadBuf::new(&mut self.buffer[held..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        let passed = self.filter.scan(&mut self.buffer[..held + read])?;
        self.demux.process(&self.buffer[..passed], &mut self.to_lapin)?;
        // A replaced frame, and the rest of the buffer.
        let rest = self.filter.take_ready();
        self.demux.process(&rest, &mut self.to_lapin)?;
        self.give_to_lapin();
        Poll::Ready(Ok(read))
    }

    fn give_to_lapin(&mut self) {
        // lapin ends a connection on which nothing arrives.
        let is_due = self.demux.has_channels() && self.lapin_fed_at.elapsed() >= ALIVE_INTERVAL;
        if self.to_lapin.is_empty() && is_due {
            self.to_lapin
                .extend_from_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END]);
        }
        if !self.to_lapin.is_empty() {
            self.wire.lock().pipe.give(&self.to_lapin);
            self.to_lapin.clear();
            self.lapin_fed_at = Instant::now();
        }
    }
}

impl<S> Drop for Driver<S> {
    /// If the connection has not ended by itself, the task has panicked or its runtime has ended.
    fn drop(&mut self) {
        let error = io::Error::other("the task of the connection has ended");
        self.wire.end(Some(error));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::super::super::guard::samples::{
        EncodedProperties, content_header, deliver, frame, method, short_string,
    };
    use super::super::super::guard::{BODY, HEADER, METHOD, OVERHEAD, PREFIX_LEN};
    use super::super::decode::Confirm;
    use super::super::shared::{ConfirmSink, NotSent};
    use super::*;
    use crate::error::BrokerError;
    use crate::protocol::{Message, ShortStr};

    const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";
    const CLOSE: (u16, u16) = (20, 40);

    /// A connection, with a broker that the test plays and lapin's end.
    struct Connection {
        wire: Arc<Wire>,
        lapin: LapinStream,
        broker: DuplexStream,
    }

    /// Begins a connection whose broker has room for `room` unread bytes.
    async fn connect(room: usize) -> Connection {
        let (stream, mut broker) = duplex(room);
        let (wire, mut lapin) = start(stream, false, 4096);
        lapin.write_all(PROTOCOL).await.unwrap();
        let mut header = [0; 8];
        broker.read_exact(&mut header).await.unwrap();
        assert_eq!(header, PROTOCOL);
        Connection { wire, lapin, broker }
    }

    impl Connection {
        fn attach(&self, number: u16) -> Arc<ContentChannel> {
            self.wire.attach(number, 4096, true)
        }

        /// Reads the next frame that the broker gets: its type and its payload.
        async fn read_frame(&mut self) -> (u8, Vec<u8>) {
            let mut prefix = [0; PREFIX_LEN];
            self.broker.read_exact(&mut prefix).await.unwrap();
            let [kind, _, _, a, b, c, d] = prefix;
            let mut rest = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + OVERHEAD - PREFIX_LEN];
            self.broker.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest.pop(), Some(FRAME_END));
            (kind, rest)
        }

        /// Reads what lapin gets, until nothing more comes for a moment of paused time.
        async fn read_lapin(&mut self) -> Vec<u8> {
            let mut read = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(len) = timeout(Duration::from_millis(1), self.lapin.read(&mut buffer)).await {
                let len = len.unwrap();
                if len == 0 {
                    break;
                }
                read.extend_from_slice(&buffer[..len]);
            }
            read
        }
    }

    fn publish(content: &Arc<ContentChannel>, body: &[u8]) -> Result<u64, NotSent> {
        let message = Message {
            body: Bytes::copy_from_slice(body),
            ..Message::default()
        };
        content.publish("", &ShortStr::from_static("q"), true, &message)
    }

    fn delivery(channel: u16, body: &[u8]) -> Vec<u8> {
        let header = content_header(body.len() as u64, &EncodedProperties::default());
        [
            frame(METHOD, channel, &deliver(b"", b"", b"q")),
            frame(HEADER, channel, &header),
            frame(BODY, channel, body),
        ]
        .concat()
    }

    /// What a channel's publisher hears.
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Heard {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl ConfirmSink for Heard {
        fn returned(&self, routing_key: &ShortStr, _: Option<&ShortStr>) {
            self.0.lock().unwrap().push(format!("returned {routing_key}"));
        }

        fn confirmed(&self, confirm: Confirm) {
            self.0.lock().unwrap().push(format!("confirmed {}", confirm.tag));
        }

        fn closed(&self, _: BrokerError) {
            self.0.lock().unwrap().push("closed".to_owned());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_lapin_and_of_channels_leave_whole() {
        let mut connection = connect(1 << 16).await;
        let content = connection.attach(1);
        // A part of a frame of lapin's, which must not be torn apart.
        let lapins = frame(METHOD, 2, &method((50, 10), &[7; 30]));
        connection.lapin.write_all(&lapins[..20]).await.unwrap();
        publish(&content, b"body").unwrap();
        let kinds = [
            connection.read_frame().await.0,
            connection.read_frame().await.0,
            connection.read_frame().await.0,
        ];
        assert_eq!(kinds, [METHOD, HEADER, BODY]);
        connection.lapin.write_all(&lapins[20..]).await.unwrap();
        assert_eq!(connection.read_frame().await.1, method((50, 10), &[7; 30]));
    }

    #[tokio::test(start_paused = true)]
    async fn content_reaches_its_channel_and_everything_else_lapin() {
        let mut connection = connect(1 << 16).await;
        let content = connection.attach(1);
        let mut deliveries = content.deliveries();
        let heard = Arc::new(Heard::default());
        content.report_confirms(Arc::downgrade(&heard) as _);
        let ack = frame(METHOD, 1, &method((60, 80), &[0, 0, 0, 0, 0, 0, 0, 9, 0]));
        let others = delivery(2, b"lapin's");
        let bytes = [&delivery(1, b"ours")[..], &ack, &others].concat();
        connection.broker.write_all(&bytes).await.unwrap();
        assert_eq!(deliveries.recv().await.unwrap().message.body, "ours");
        assert_eq!(connection.read_lapin().await, others);
        assert_eq!(heard.take(), ["confirmed 9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_follows_on_a_channel_that_lapin_closes() {
        let mut connection = connect(1 << 16).await;
        let content = connection.attach(1);
        publish(&content, b"").unwrap();
        let close = frame(METHOD, 1, &method(CLOSE, &[0; 7]));
        connection.lapin.write_all(&close).await.unwrap();
        let mut methods = Vec::new();
        for _ in 0..3 {
            methods.push(connection.read_frame().await.0);
        }
        assert_eq!(methods, [METHOD, HEADER, METHOD]);
        assert!(matches!(publish(&content, b""), Err(NotSent::ChannelClosed)));
        // Another channel with its number.
        let next = connection.attach(1);
        assert!(publish(&next, b"").is_ok());
        assert!(matches!(publish(&content, b""), Err(NotSent::ChannelClosed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_hears_that_the_broker_closed_its_channel() {
        let mut connection = connect(1 << 16).await;
        let content = connection.attach(1);
        let [early, late] = [(); 2].map(|()| Arc::new(Heard::default()));
        content.report_confirms(Arc::downgrade(&early) as _);
        let arguments = [&404_u16.to_be_bytes()[..], &short_string(b"NOT_FOUND"), &[0; 4]].concat();
        let close = frame(METHOD, 1, &method(CLOSE, &arguments));
        connection.broker.write_all(&close).await.unwrap();
        assert_eq!(connection.read_lapin().await, close);
        assert_eq!(early.take(), ["closed"]);
        // Also if it was closed before there was a publisher.
        let content = connection.attach(2);
        let close = frame(METHOD, 2, &method(CLOSE, &arguments));
        connection.broker.write_all(&close).await.unwrap();
        connection.read_lapin().await;
        content.report_confirms(Arc::downgrade(&late) as _);
        assert_eq!(late.take(), ["closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_socket_took_counts_as_written() {
        let mut connection = connect(64).await;
        let content = connection.attach(1);
        let first = publish(&content, b"").unwrap();
        let second = publish(&content, &[7; 200]).unwrap();
        tokio::task::yield_now().await;
        assert!(first <= 64, "{first}");
        assert_eq!([first, second].map(|end| content.is_written(end)), [true, false]);
        // It may still be written.
        assert!(content.may_be_written(second));
        drop(connection.broker);
        let mut buffer = [0; 8];
        assert!(connection.lapin.read(&mut buffer).await.is_err());
        assert_eq!(
            [first, second].map(|end| content.may_be_written(end)),
            [true, false]
        );
        assert!(matches!(publish(&content, b""), Err(NotSent::ConnectionLost)));
        assert!(matches!(
            publish(&connection.wire.attach(3, 4096, true), b""),
            Err(NotSent::ConnectionLost)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrived_before_the_end_is_received() {
        let mut connection = connect(1 << 16).await;
        let content = connection.attach(1);
        let mut deliveries = content.deliveries();
        let bytes = [delivery(1, b"first"), delivery(1, b"last")].concat();
        connection.broker.write_all(&bytes).await.unwrap();
        drop(connection.broker);
        let mut buffer = [0; 8];
        assert_eq!(connection.lapin.read(&mut buffer).await.unwrap(), 0);
        // lapin hears of the end, so the deliveries are there.
        assert_eq!(deliveries.try_recv().unwrap().message.body, "first");
        assert_eq!(deliveries.try_recv().unwrap().message.body, "last");
    }

    #[tokio::test(start_paused = true)]
    async fn a_violation_of_the_protocol_is_lapins_error() {
        let mut connection = connect(1 << 16).await;
        connection.attach(1);
        let body = frame(BODY, 1, b"of no message");
        connection.broker.write_all(&body).await.unwrap();
        let mut buffer = [0; 8];
        let error = connection.lapin.read(&mut buffer).await.unwrap_err();
        assert!(error.to_string().contains("content"), "{error}");
        assert_eq!(connection.broker.read(&mut buffer).await.unwrap(), 0);
    }

    /// lapin ends a connection on which nothing arrives.
    #[tokio::test]
    async fn lapin_hears_that_the_broker_is_alive_while_only_content_arrives() {
        let mut connection = connect(1 << 16).await;
        let mut deliveries = connection.attach(1).deliveries();
        let mut heard = Vec::new();
        while heard.is_empty() {
            connection.broker.write_all(&delivery(1, b"ours")).await.unwrap();
            deliveries.recv().await.unwrap();
            tokio::time::sleep(ALIVE_INTERVAL / 4).await;
            heard = connection.read_lapin().await;
        }
        assert_eq!(heard, frame(HEARTBEAT, 0, b""));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_frames_are_written_before_the_socket_is_closed() {
        let mut connection = connect(64).await;
        let content = connection.attach(1);
        publish(&content, &[7; 500]).unwrap();
        let close = frame(METHOD, 0, &method((10, 50), &[0; 7]));
        connection.lapin.write_all(&close).await.unwrap();
        connection.lapin.close().await.unwrap();
        let mut written = Vec::new();
        connection.broker.read_to_end(&mut written).await.unwrap();
        assert!(written.ends_with(&close));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_reads_nothing_does_not_keep_a_closed_connection() {
        let connection = connect(64).await;
        let content = connection.attach(1);
        let end = publish(&content, &[7; 500]).unwrap();
        drop(connection.lapin);
        tokio::time::sleep(CLOSE_LIMIT * 2).await;
        assert!(matches!(publish(&content, b""), Err(NotSent::ConnectionLost)));
        assert!(!content.may_be_written(end));
    }
}
