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
