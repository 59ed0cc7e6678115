mod socket;

use std::sync::Mutex;

use bytes::Bytes;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::timeout;

use self::socket::{Faults, Socket, Tls};
use super::super::super::guard::samples::{
    EncodedProperties, content_header, deliver, frame, method, short_string,
};
use super::super::super::guard::{BODY, HEADER, METHOD, OVERHEAD, PREFIX_LEN};
use super::super::decode::Confirm;
use super::super::shared::{ConfirmSink, NotSent};
use super::*;
use crate::error::BrokerError;
use crate::protocol::{Malformed, Message, Property, ShortStr};

const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";
const CLOSE: (u16, u16) = (20, 40);

/// The largest frame that a broker may send. The channels send smaller ones.
const MAX_FRAME: usize = 128 * 1024;

/// More than anything takes if the driver works.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for what the driver has to do. Fails if nothing happens, or if it happens and wakes
/// nobody: in paused time, at once.
async fn soon<F: Future>(future: F) -> F::Output {
    let began = tokio::time::Instant::now();
    let output = timeout(LIMIT, future).await.expect("the driver does nothing");
    assert!(began.elapsed() < LIMIT, "nobody was woken");
    output
}

/// Lets the driver do what it can, even if it first lets other tasks run.
async fn let_the_driver_work() {
    for _ in 0..3 {
        yield_now().await;
    }
}

/// A connection, with a broker that the test plays and lapin's end.
struct Connection {
    wire: Arc<Wire>,
    lapin: LapinStream,
    broker: DuplexStream,
}

/// Begins a connection whose broker has room for `room` unread bytes.
async fn connect(room: usize) -> Connection {
    let (stream, broker) = duplex(room);
    connect_through(stream, false, broker).await
}

/// Begins a connection through `stream`, whose other end is `broker`.
async fn connect_through<S>(stream: S, is_encrypted: bool, mut broker: DuplexStream) -> Connection
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (wire, mut lapin) = start(stream, is_encrypted, MAX_FRAME);
    lapin.write_all(PROTOCOL).await.unwrap();
    let mut header = [0; 8];
    soon(broker.read_exact(&mut header)).await.unwrap();
    assert_eq!(header, PROTOCOL);
    Connection { wire, lapin, broker }
}

/// Begins a connection whose socket has faults.
async fn connect_with_faults(is_encrypted: bool) -> (Connection, Arc<Mutex<Faults>>) {
    let (stream, broker) = duplex(4 * READ_SIZE);
    let (socket, faults) = Socket::new(stream);
    (connect_through(socket, is_encrypted, broker).await, faults)
}

impl Connection {
    fn attach(&self, number: u16) -> Arc<ContentChannel> {
        self.wire.attach(number, 4096, true)
    }

    /// Reads the next frame that the broker gets: its type and its payload.
    async fn read_frame(&mut self) -> (u8, Vec<u8>) {
        let mut prefix = [0; PREFIX_LEN];
        soon(self.broker.read_exact(&mut prefix)).await.unwrap();
        let [kind, _, _, a, b, c, d] = prefix;
        let mut rest = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + OVERHEAD - PREFIX_LEN];
        soon(self.broker.read_exact(&mut rest)).await.unwrap();
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

/// How the connection ends for lapin. It may hear before that the broker is alive.
async fn end(lapin: &mut LapinStream) -> io::Result<()> {
    let mut buffer = [0; OVERHEAD];
    while soon(lapin.read(&mut buffer)).await? > 0 {
        assert_eq!(buffer[..], frame(HEARTBEAT, 0, b""));
    }
    Ok(())
}

/// Leaves out what a driver that is slow tells lapin while only content arrives.
fn without_heartbeats(frames: &[u8]) -> Vec<u8> {
    let heartbeat = frame(HEARTBEAT, 0, b"");
    let mut left = Vec::new();
    let mut rest = frames;
    while let Some(byte) = rest.first() {
        match rest.strip_prefix(&heartbeat[..]) {
            Some(after) => rest = after,
            None => {
                left.push(*byte);
                rest = &rest[1..];
            }
        }
    }
    left
}

fn publish(content: &Arc<ContentChannel>, body: &[u8]) -> Result<u64, NotSent> {
    let message = Message {
        body: Bytes::copy_from_slice(body),
        ..Message::default()
    };
    content.publish("", &ShortStr::from_static("q"), true, &message)
}

/// A confirm of the message with this number.
fn ack(channel: u16, tag: u64) -> Vec<u8> {
    let arguments = [&tag.to_be_bytes()[..], &[0]].concat();
    frame(METHOD, channel, &method((60, 80), &arguments))
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
    let_the_driver_work().await;
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
async fn large_bodies_arrive_whole_whatever_is_between_them() {
    let mut connection = connect(10_000).await;
    let mut deliveries = connection.attach(1).deliveries();
    let body = |byte: u8| [vec![byte; 50_000], vec![!byte; 50_000]].concat();
    let lapins = frame(METHOD, 1, &method((60, 21), &short_string(b"tag")));
    let messages = [
        delivery(1, &body(1)),
        lapins.clone(),
        delivery(1, b"small"),
        delivery(1, &body(2)),
    ];
    // A body in frames of 60,000 bytes and less.
    let header = content_header(100_000, &EncodedProperties::default());
    let in_parts = [
        frame(METHOD, 1, &deliver(b"", b"", b"q")),
        frame(HEADER, 1, &header),
        frame(BODY, 1, &body(3)[..60_000]),
        frame(BODY, 1, &body(3)[60_000..99_990]),
        frame(BODY, 1, &body(3)[99_990..]),
    ];
    let bytes = [messages.concat(), in_parts.concat()].concat();
    let mut broker = connection.broker;
    let sending = tokio::spawn(async move {
        for part in bytes.chunks(7_001) {
            broker.write_all(part).await.unwrap();
        }
        broker
    });
    for expected in [body(1), b"small".to_vec(), body(2), body(3)] {
        let delivery = soon(deliveries.recv()).await.unwrap();
        assert!(delivery.message.body == expected);
    }
    connection.broker = soon(sending).await.unwrap();
    assert_eq!(without_heartbeats(&connection.read_lapin().await), lapins);
}

/// A connection that reads little at once, because bodies are large, must not do so for ever.
#[tokio::test(start_paused = true)]
async fn many_small_frames_after_a_large_body_are_read_at_once() {
    let mut connection = connect(4 * READ_SIZE).await;
    let content = connection.attach(1);
    let mut deliveries = content.deliveries();
    let heard = Arc::new(Heard::default());
    content.report_confirms(Arc::downgrade(&heard) as _);
    connection
        .broker
        .write_all(&delivery(1, &[7; 40_000]))
        .await
        .unwrap();
    soon(deliveries.recv()).await.unwrap();
    let confirms: Vec<u8> = (1..=6000).flat_map(|tag| ack(1, tag)).collect();
    assert!(confirms.len() > 30 * SHORT_READ_SIZE);
    connection.broker.write_all(&confirms).await.unwrap();
    // A task may do 128 operations before it has to yield.
    let_the_driver_work().await;
    assert_eq!(heard.take().len(), 6000);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_copied_leaves_between_its_frames() {
    let mut connection = connect(1000).await;
    let content = connection.wire.attach(1, MAX_FRAME, true);
    let body = [vec![1; 100_000], vec![2; 100_000]].concat();
    let end = publish(&content, &body).unwrap();
    publish(&content, b"next").unwrap();
    let_the_driver_work().await;
    assert!(!content.is_written(end - 1));
    let mut parts = Vec::new();
    for kind in [METHOD, HEADER, BODY, BODY] {
        let frame = connection.read_frame().await;
        assert_eq!(frame.0, kind);
        if kind == BODY {
            parts.push(frame.1);
        }
    }
    assert_eq!(parts[0].len(), MAX_FRAME - OVERHEAD);
    assert!(parts.concat() == body);
    connection.read_frame().await;
    assert!(content.is_written(end));
    connection.read_frame().await;
    assert_eq!(connection.read_frame().await.1, b"next");
}

#[tokio::test(start_paused = true)]
async fn content_reaches_its_channel_and_everything_else_lapin() {
    let mut connection = connect(1 << 16).await;
    let content = connection.attach(1);
    let mut deliveries = content.deliveries();
    let heard = Arc::new(Heard::default());
    content.report_confirms(Arc::downgrade(&heard) as _);
    let others = delivery(2, b"lapin's");
    let bytes = [&delivery(1, b"ours")[..], &ack(1, 9), &others].concat();
    connection.broker.write_all(&bytes).await.unwrap();
    let received = soon(deliveries.recv()).await.unwrap();
    assert_eq!(received.message.body, "ours");
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
    let_the_driver_work().await;
    assert!(first <= 64, "{first}");
    assert_eq!([first, second].map(|end| content.is_written(end)), [true, false]);
    // It may still be written.
    assert!(content.may_be_written(second));
    drop(connection.broker);
    assert!(end(&mut connection.lapin).await.is_err());
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
async fn tasks_that_are_ready_publish_before_the_driver_writes() {
    let (mut connection, faults) = connect_with_faults(false).await;
    let content = connection.attach(1);
    let writes = || faults.lock().unwrap().writes;
    let before = writes();
    // The driver is the first in the queue of tasks.
    publish(&content, b"").unwrap();
    let second = Arc::clone(&content);
    tokio::spawn(async move { publish(&second, b"").unwrap() });
    for _ in 0..2 {
        for kind in [METHOD, HEADER] {
            assert_eq!(connection.read_frame().await.0, kind);
        }
    }
    assert_eq!(writes() - before, 1);
    // What waits for the socket does not wait for other tasks too.
    let large = vec![7; WRITE_SIZE];
    publish(&content, &large).unwrap();
    tokio::spawn(async move { publish(&content, b"").unwrap() });
    yield_now().await;
    assert!(writes() - before > 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_of_lapin_do_not_count_as_written() {
    let mut connection = connect(256).await;
    let content = connection.attach(1);
    let first = publish(&content, b"").unwrap();
    let lapins = frame(METHOD, 2, &method((50, 10), &[7; 1000]));
    connection.lapin.write_all(&lapins).await.unwrap();
    let_the_driver_work().await;
    let second = publish(&content, b"").unwrap();
    let_the_driver_work().await;
    // It waits behind lapin's frame, of which more bytes than these are written.
    assert!(second < 256, "{second}");
    assert_eq!([first, second].map(|end| content.is_written(end)), [true, false]);
    for _ in 0..5 {
        connection.read_frame().await;
    }
    assert!(content.is_written(second));
}

#[tokio::test(start_paused = true)]
async fn what_arrived_before_the_end_is_received() {
    let mut connection = connect(1 << 16).await;
    let content = connection.attach(1);
    let mut deliveries = content.deliveries();
    let bytes = [delivery(1, b"first"), delivery(1, b"last")].concat();
    connection.broker.write_all(&bytes).await.unwrap();
    connection.broker.shutdown().await.unwrap();
    end(&mut connection.lapin).await.unwrap();
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
    let error = end(&mut connection.lapin).await.unwrap_err();
    assert!(error.to_string().contains("content"), "{error}");
    assert_eq!(soon(connection.broker.read(&mut [0; 8])).await.unwrap(), 0);
}

/// lapin ends a connection on which nothing arrives.
#[tokio::test]
async fn lapin_hears_that_the_broker_is_alive_while_only_content_arrives() {
    let mut connection = connect(1 << 16).await;
    let mut deliveries = connection.attach(1).deliveries();
    let began = Instant::now();
    let mut heard = Vec::new();
    while heard.is_empty() {
        assert!(began.elapsed() < LIMIT, "lapin hears nothing");
        connection.broker.write_all(&delivery(1, b"ours")).await.unwrap();
        soon(deliveries.recv()).await.unwrap();
        tokio::time::sleep(ALIVE_INTERVAL / 4).await;
        heard = connection.read_lapin().await;
    }
    assert_eq!(heard, frame(HEARTBEAT, 0, b""));
}

/// lapin would take it for a mistake before it has opened the connection.
#[tokio::test]
async fn lapin_hears_nothing_else_while_there_are_no_channels() {
    let mut connection = connect(1 << 16).await;
    tokio::time::sleep(ALIVE_INTERVAL).await;
    let others = frame(METHOD, 0, &method((10, 41), b"\0"));
    let (front, rest) = others.split_at(5);
    connection.broker.write_all(front).await.unwrap();
    let_the_driver_work().await;
    connection.broker.write_all(rest).await.unwrap();
    let mut read = vec![0; others.len()];
    soon(connection.lapin.read_exact(&mut read)).await.unwrap();
    assert_eq!(read, others);
}

#[tokio::test(start_paused = true)]
async fn the_last_frames_are_written_before_the_socket_is_closed() {
    let mut connection = connect(64).await;
    let content = connection.attach(1);
    publish(&content, &[7; 500]).unwrap();
    let close = frame(METHOD, 0, &method((10, 50), &[0; 7]));
    connection.lapin.write_all(&close).await.unwrap();
    connection.lapin.close().await.unwrap();
    let began = tokio::time::Instant::now();
    let mut written = Vec::new();
    soon(connection.broker.read_to_end(&mut written)).await.unwrap();
    assert!(written.ends_with(&close));
    assert!(began.elapsed() < CLOSE_LIMIT, "the socket is closed late");
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

/// lapin's thread may write and close while the driver writes something else.
#[tokio::test(start_paused = true)]
async fn frames_that_lapin_writes_just_before_it_closes_are_written() {
    let (connection, faults) = connect_with_faults(false).await;
    let Connection {
        wire,
        mut lapin,
        mut broker,
    } = connection;
    let close = frame(METHOD, 0, &method((10, 50), &[0; 7]));
    let last = close.clone();
    faults.lock().unwrap().on_flush = Some(Box::new(move || {
        lapin.write_all(&last).now_or_never().unwrap().unwrap();
        drop(lapin);
    }));
    publish(&wire.attach(1, 4096, true), b"").unwrap();
    let mut written = Vec::new();
    soon(broker.read_to_end(&mut written)).await.unwrap();
    assert!(written.ends_with(&close));
    // TLS tells the broker that nothing more follows.
    assert!(faults.lock().unwrap().was_shut_down);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_never_shuts_down_does_not_keep_a_closed_connection() {
    let (mut connection, faults) = connect_with_faults(false).await;
    let content = connection.attach(1);
    faults.lock().unwrap().never_shuts_down = true;
    drop(connection.lapin);
    assert_eq!(soon(connection.broker.read(&mut [0; 8])).await.unwrap(), 0);
    assert!(matches!(publish(&content, b""), Err(NotSent::ConnectionLost)));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_read_ends_the_connection() {
    let (mut connection, faults) = connect_with_faults(false).await;
    let content = connection.attach(1);
    faults.lock().unwrap().read = Some(io::ErrorKind::ConnectionReset);
    publish(&content, b"wakes the driver").unwrap();
    let error = end(&mut connection.lapin).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(publish(&content, b""), Err(NotSent::ConnectionLost)));
}

#[tokio::test(start_paused = true)]
async fn what_arrived_before_an_error_of_a_write_is_received() {
    let (mut connection, faults) = connect_with_faults(false).await;
    let content = connection.attach(1);
    let heard = Arc::new(Heard::default());
    content.report_confirms(Arc::downgrade(&heard) as _);
    publish(&content, b"is confirmed").unwrap();
    for _ in [METHOD, HEADER, BODY] {
        connection.read_frame().await;
    }
    faults.lock().unwrap().write = Some(Err(io::ErrorKind::BrokenPipe));
    // More than one read. There is room for all of it before the driver runs.
    let others = frame(BODY, 2, &[7; 4000]).repeat(20);
    let bytes = [&others[..], &ack(1, 9)].concat();
    connection.broker.write_all(&bytes).await.unwrap();
    publish(&content, b"").unwrap();
    let mut read = vec![0; others.len()];
    soon(connection.lapin.read_exact(&mut read)).await.unwrap();
    assert_eq!(read, others);
    let error = end(&mut connection.lapin).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(heard.take(), ["confirmed 9"]);
}

#[tokio::test(start_paused = true)]
async fn only_tls_may_have_sent_what_a_failed_write_was_given() {
    for is_encrypted in [false, true] {
        let (mut connection, faults) = connect_with_faults(is_encrypted).await;
        let content = connection.wire.attach(1, MAX_FRAME, true);
        faults.lock().unwrap().write = Some(Err(io::ErrorKind::BrokenPipe));
        // It is written in several pieces, because its body is not copied.
        let first = publish(&content, &[7; WRITE_SIZE / 4]).unwrap();
        // It does not fit into one write.
        let second = publish(&content, &[7; 2 * WRITE_SIZE]).unwrap();
        assert!(end(&mut connection.lapin).await.is_err());
        let may_be_written = [first, second].map(|end| content.may_be_written(end));
        assert_eq!(may_be_written, [is_encrypted, false]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_takes_nothing_is_an_error() {
    let (mut connection, faults) = connect_with_faults(false).await;
    let content = connection.attach(1);
    faults.lock().unwrap().write = Some(Ok(0));
    publish(&content, b"").unwrap();
    let error = end(&mut connection.lapin).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

#[tokio::test(start_paused = true)]
async fn frames_pass_whole_through_tls() {
    let (stream, broker) = duplex(64);
    let mut connection = connect_through(Tls::new(stream), true, broker).await;
    let content = connection.attach(1);
    let mut deliveries = content.deliveries();
    for body in [&b"one"[..], b"two"] {
        publish(&content, body).unwrap();
    }
    let lapins = frame(METHOD, 2, &method((50, 10), &[7; 30]));
    connection.lapin.write_all(&lapins).await.unwrap();
    for body in [&b"one"[..], b"two"] {
        assert_eq!(connection.read_frame().await.0, METHOD);
        assert_eq!(connection.read_frame().await.0, HEADER);
        assert_eq!(connection.read_frame().await, (BODY, body.to_vec()));
    }
    assert_eq!(connection.read_frame().await.1, method((50, 10), &[7; 30]));

    let others = delivery(2, b"lapin's");
    let bytes = [&delivery(1, &[7; 100])[..], &others].concat();
    soon(connection.broker.write_all(&bytes)).await.unwrap();
    assert_eq!(soon(deliveries.recv()).await.unwrap().message.body, &[7; 100][..]);
    assert_eq!(without_heartbeats(&connection.read_lapin().await), others);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_many_frames_is_received() {
    let mut connection = connect(1 << 16).await;
    let mut deliveries = connection.attach(1).deliveries();
    let body: Vec<u8> = (0..=u8::MAX).cycle().take(10 * READ_SIZE).collect();
    let header = content_header(body.len() as u64, &EncodedProperties::default());
    let mut bytes = [
        frame(METHOD, 1, &deliver(b"", b"", b"q")),
        frame(HEADER, 1, &header),
    ]
    .concat();
    for part in body.chunks(4096 - OVERHEAD) {
        bytes.extend(frame(BODY, 1, part));
    }
    soon(connection.broker.write_all(&bytes)).await.unwrap();
    assert_eq!(soon(deliveries.recv()).await.unwrap().message.body, body);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_message_passes_the_guard() {
    let mut connection = connect(1 << 16).await;
    let mut deliveries = connection.attach(1).deliveries();
    let mut properties = EncodedProperties::default();
    properties.set(Property::ReplyTo, short_string(b"\xff"));
    let bytes = [
        frame(METHOD, 1, &deliver(b"", b"", b"q")),
        frame(HEADER, 1, &content_header(4, &properties)),
        frame(BODY, 1, b"body"),
    ];
    connection.broker.write_all(&bytes.concat()).await.unwrap();
    let received = soon(deliveries.recv()).await.unwrap();
    assert_eq!(received.malformed, Some(Malformed::NotUtf8(Property::ReplyTo)));
    assert_eq!(received.message.body, "body");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_cut_off_is_not_received() {
    let mut connection = connect(64).await;
    let content = connection.attach(1);
    let mut deliveries = content.deliveries();
    publish(&content, &[7; 500]).unwrap();
    let mut bytes = [delivery(1, b"whole"), delivery(1, b"cut off")].concat();
    bytes.truncate(bytes.len() - 3);
    soon(connection.broker.write_all(&bytes)).await.unwrap();
    soon(connection.broker.shutdown()).await.unwrap();
    end(&mut connection.lapin).await.unwrap();
    assert_eq!(deliveries.try_recv().unwrap().message.body, "whole");
    assert!(deliveries.try_recv().is_err());
}

/// The broker could still read, but it would never confirm.
#[tokio::test(start_paused = true)]
async fn a_broker_that_ends_its_half_ends_the_connection() {
    let mut connection = connect(1 << 16).await;
    let content = connection.attach(1);
    soon(connection.broker.shutdown()).await.unwrap();
    assert_eq!(soon(connection.broker.read(&mut [0; 8])).await.unwrap(), 0);
    end(&mut connection.lapin).await.unwrap();
    assert!(matches!(publish(&content, b""), Err(NotSent::ConnectionLost)));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_reads_nothing_is_still_heard() {
    let mut connection = connect(64).await;
    let content = connection.attach(1);
    let mut deliveries = content.deliveries();
    publish(&content, &[7; 500]).unwrap();
    soon(connection.broker.write_all(&delivery(1, b"ours")))
        .await
        .unwrap();
    assert_eq!(soon(deliveries.recv()).await.unwrap().message.body, "ours");
}

#[tokio::test(start_paused = true)]
async fn reading_pauses_until_lapin_reads() {
    let mut connection = connect(1 << 16).await;
    let content = connection.attach(1);
    let others = frame(BODY, 2, &[7; 4000]).repeat(1000);
    let mut sent = 0;
    let pause = Duration::from_millis(1);
    while let Ok(len) = timeout(pause, connection.broker.write(&others[sent..])).await {
        sent += len.unwrap();
        assert!(sent < others.len(), "everything is read at once");
    }
    // Writing goes on.
    publish(&content, b"").unwrap();
    assert_eq!(connection.read_frame().await.0, METHOD);

    let mut read = vec![0; others.len()];
    let (written, got) = soon(futures_util::future::join(
        connection.broker.write_all(&others[sent..]),
        connection.lapin.read_exact(&mut read),
    ))
    .await;
    written.unwrap();
    got.unwrap();
    assert_eq!(read, others);
}

#[tokio::test(start_paused = true)]
async fn frames_of_a_channel_that_lapin_has_closed_are_left_out() {
    let mut connection = connect(1 << 16).await;
    let close = method(CLOSE, &[0; 7]);
    let bytes = [
        frame(METHOD, 2, &close),
        frame(METHOD, 2, &method((50, 10), &[7; 30])),
        frame(HEARTBEAT, 0, b""),
    ];
    connection.lapin.write_all(&bytes.concat()).await.unwrap();
    assert_eq!(connection.read_frame().await, (METHOD, close));
    assert_eq!(connection.read_frame().await.0, HEARTBEAT);
}

/// A publisher whose code panics.
struct Panicking;

impl ConfirmSink for Panicking {
    fn returned(&self, _: &ShortStr, _: Option<&ShortStr>) {}

    fn confirmed(&self, _: Confirm) {
        panic!("on purpose");
    }

    fn closed(&self, _: BrokerError) {}
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_the_connection() {
    let mut connection = connect(1 << 16).await;
    let content = connection.attach(1);
    let panicking = Arc::new(Panicking);
    content.report_confirms(Arc::downgrade(&panicking) as _);
    connection.broker.write_all(&ack(1, 1)).await.unwrap();
    assert!(end(&mut connection.lapin).await.is_err());
    assert!(matches!(publish(&content, b""), Err(NotSent::ConnectionLost)));
    assert_eq!(soon(connection.broker.read(&mut [0; 8])).await.unwrap(), 0);
}

#[test]
fn the_end_of_the_runtime_ends_the_connection() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut connection = runtime.block_on(connect(1 << 16));
    let content = connection.attach(1);
    drop(runtime);
    let read = connection.lapin.read(&mut [0; 8]).now_or_never();
    assert!(read.expect("lapin waits for ever").is_err());
    assert!(matches!(publish(&content, b""), Err(NotSent::ConnectionLost)));
}
