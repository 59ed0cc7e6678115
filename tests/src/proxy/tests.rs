//! A test for each fault, which holds both ends of the connection.

use std::io;

use rpc_runtime::Broker;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::*;
use crate::{rabbit, until};

/// How long a test waits for an event that must happen.
const SOON: Duration = Duration::from_secs(10);

/// How long a test waits to see that an event does not happen.
const MOMENT: Duration = Duration::from_millis(30);

/// A proxy in front of a listener.
struct Bench {
    broker: TcpListener,
    proxy: Proxy,
}

impl Bench {
    async fn new() -> Self {
        let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://guest:guest@{}/%2f", broker.local_addr().unwrap());
        let proxy = Proxy::start(&url).await.unwrap();
        Self { broker, proxy }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        connect(&self.proxy).await
    }

    async fn accept(&self) -> TcpStream {
        timeout(SOON, self.broker.accept()).await.unwrap().unwrap().0
    }

    /// The client's end and the broker's end.
    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect().await.unwrap();
        (client, self.accept().await)
    }

    /// Checks that bytes pass in both directions.
    async fn works(&self) -> bool {
        let (mut client, mut broker) = self.pair().await;
        client.write_all(b"request").await.unwrap();
        broker.write_all(b"reply").await.unwrap();
        receive(&mut broker, 7).await == b"request" && receive(&mut client, 5).await == b"reply"
    }
}

async fn connect(proxy: &Proxy) -> io::Result<TcpStream> {
    let (_, host) = proxy.url().split_once('@').unwrap();
    TcpStream::connect(host.trim_end_matches("/%2f")).await
}

async fn receive(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(SOON, stream.read_exact(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    bytes
}

/// Returns the remaining bytes and how the stream ended.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap();
    (bytes, end.map(drop).map_err(|error| error.kind()))
}

async fn nothing_comes(stream: &mut TcpStream) -> bool {
    timeout(MOMENT, stream.read_u8()).await.is_err()
}

const RESET: Result<(), io::ErrorKind> = Err(io::ErrorKind::ConnectionReset);

#[tokio::test]
async fn forwards_both_ways_and_counts() {
    let bench = Bench::new().await;
    assert!(bench.works().await);
    let (mut client, mut broker) = bench.pair().await;
    client.write_all(b"last words").await.unwrap();
    drop(client);
    assert_eq!(rest(&mut broker).await, (b"last words".into(), Ok(())));

    let counts = bench.proxy.counts(Target::All);
    assert_eq!(
        (counts.accepted, counts.to_broker, counts.from_broker),
        (2, 17, 5)
    );
    drop(broker);
    until("both have ended", SOON, async || {
        Ok(bench.proxy.counts(Target::All).open == 0)
    })
    .await
    .unwrap();
    assert_eq!(bench.proxy.counts(Target::Nth(1)).to_broker, 10);
}

#[tokio::test]
async fn latency_delays_every_chunk_at_the_same_time() {
    const LATENCY: Duration = Duration::from_secs(1);
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.pair().await;
    let delay = bench.proxy.delay(Target::All, Direction::ToBroker, LATENCY);

    let begin = Instant::now();
    for number in 0..50 {
        client.write_u8(number).await.unwrap();
        // With pauses, so that they are separate chunks.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(receive(&mut broker, 1).await, [0]);
    assert!(begin.elapsed() >= LATENCY);
    assert_eq!(receive(&mut broker, 49).await, (1..50).collect::<Vec<_>>());
    // One after the other, they would take fifty times the latency.
    assert!(begin.elapsed() < 25 * LATENCY);

    broker.write_all(b"not delayed").await.unwrap();
    receive(&mut client, 11).await;
    let hour = bench
        .proxy
        .delay(Target::All, Direction::Both, Duration::from_secs(3600));
    client.write_all(b"late").await.unwrap();
    assert!(nothing_comes(&mut broker).await);
    drop((delay, hour));
    assert_eq!(receive(&mut broker, 4).await, b"late");
}

#[tokio::test]
async fn bandwidth_is_limited() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.pair().await;
    let throttle = bench.proxy.throttle(Target::All, Direction::FromBroker, 100_000);
    let begin = Instant::now();
    broker.write_all(&[1; 20_000]).await.unwrap();
    assert_eq!(receive(&mut client, 20_000).await, [1; 20_000]);
    // No pause follows the last piece.
    assert!(begin.elapsed() >= Duration::from_millis(150));

    throttle.heal().await;
    let send = broker.write_all(&[2; 10_000_000]);
    let (sent, _) = tokio::join!(send, receive(&mut client, 10_000_000));
    sent.unwrap();
}

#[tokio::test]
async fn black_hole_holds_one_way_and_then_continues() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.pair().await;
    let hole = bench.proxy.black_hole(Target::All, Direction::ToBroker);
    client.write_all(b"held").await.unwrap();
    client.shutdown().await.unwrap();
    broker.write_all(b"open").await.unwrap();
    assert_eq!(receive(&mut client, 4).await, b"open");
    assert!(nothing_comes(&mut broker).await);
    assert_eq!(bench.proxy.counts(Target::All).to_broker, 0);
    hole.heal().await;
    assert_eq!(rest(&mut broker).await, (b"held".into(), Ok(())));
}

#[tokio::test]
async fn black_hole_buffers_no_more_than_a_network_would() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.pair().await;
    let _hole = bench.proxy.black_hole(Target::All, Direction::FromBroker);
    client.write_all(b"open").await.unwrap();
    assert_eq!(receive(&mut broker, 4).await, b"open");

    let flood = async {
        loop {
            broker.write_all(&[0; 1 << 16]).await.unwrap();
        }
    };
    let never: Result<(), _> = timeout(10 * MOMENT, flood).await;
    assert!(never.is_err());
    assert!(nothing_comes(&mut client).await);
    let counts = bench.proxy.counts(Target::All);
    assert_eq!((counts.open, counts.from_broker), (1, 0));
}

#[tokio::test]
async fn black_hole_hides_from_each_end_that_the_other_is_gone() {
    let bench = Bench::new().await;
    let (client, mut broker) = bench.pair().await;
    let hole = bench.proxy.black_hole(Target::All, Direction::ToBroker);
    client.set_zero_linger().unwrap();
    drop(client);
    // Also if what the broker sends cannot be delivered.
    broker.write_all(b"are you there?").await.unwrap();
    assert!(nothing_comes(&mut broker).await);
    hole.heal().await;
    assert_eq!(rest(&mut broker).await.1, RESET);
}

#[tokio::test]
async fn silence_affects_new_connections() {
    let bench = Bench::new().await;
    let (mut old, mut broker) = bench.pair().await;
    let silence = bench.proxy.silence_new();
    let mut new = bench.connect().await.unwrap();
    new.write_all(b"hello").await.unwrap();
    assert!(nothing_comes(&mut new).await);
    assert!(timeout(MOMENT, bench.broker.accept()).await.is_err());
    old.write_all(b"still").await.unwrap();
    assert_eq!(receive(&mut broker, 5).await, b"still");

    silence.heal().await;
    assert_eq!(receive(&mut bench.accept().await, 5).await, b"hello");
}

#[tokio::test]
async fn refusal_affects_new_connections() {
    let bench = Bench::new().await;
    let (mut old, mut broker) = bench.pair().await;
    for _ in 0..3 {
        let refusal = bench.proxy.refuse_new().await;
        let error = bench.connect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        old.write_all(b"still").await.unwrap();
        assert_eq!(receive(&mut broker, 5).await, b"still");
        refusal.heal().await;
        assert!(bench.works().await);
    }
}

#[tokio::test]
async fn reset_comes_after_what_was_forwarded() {
    let bench = Bench::new().await;
    let (mut first, _first_broker) = bench.pair().await;
    let (mut second, mut broker) = bench.pair().await;
    second.write_all(b"request").await.unwrap();
    broker.write_all(b"reply").await.unwrap();
    until("both are forwarded", SOON, async || {
        let counts = bench.proxy.counts(Target::Nth(1));
        Ok((counts.to_broker, counts.from_broker) == (7, 5))
    })
    .await
    .unwrap();

    assert_eq!(bench.proxy.reset(Target::Nth(1)).await, 1);
    assert_eq!(rest(&mut second).await, (b"reply".into(), RESET));
    assert_eq!(rest(&mut broker).await, (b"request".into(), RESET));
    assert_eq!(bench.proxy.reset(Target::All).await, 1);
    assert_eq!(rest(&mut first).await.1, RESET);
    assert_eq!(bench.proxy.reset(Target::All).await, 0);
}

#[tokio::test]
async fn half_close_leaves_the_other_direction_open() {
    for (direction, to_broker) in [(Direction::ToBroker, true), (Direction::FromBroker, false)] {
        let bench = Bench::new().await;
        let (client, broker) = bench.pair().await;
        let (mut sender, mut receiver) = if to_broker {
            (client, broker)
        } else {
            (broker, client)
        };
        assert_eq!(bench.proxy.half_close(Target::All, direction).await, 1);
        assert_eq!(rest(&mut receiver).await, (vec![], Ok(())));
        receiver.write_all(b"other way").await.unwrap();
        assert_eq!(receive(&mut sender, 9).await, b"other way");
        assert_eq!(bench.proxy.counts(Target::All).open, 1);
    }
}

#[tokio::test]
async fn cut_after_an_exact_number_of_bytes() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.pair().await;
    client.write_all(b"before").await.unwrap();
    assert_eq!(receive(&mut broker, 6).await, b"before");
    let cut = bench.proxy.cut_after_bytes(Target::All, Direction::ToBroker, 5);
    client.write_all(b"abc").await.unwrap();
    assert_eq!(receive(&mut broker, 3).await, b"abc");
    assert!(cut.happened(MOMENT).await.is_err());
    client.write_all(b"defghi").await.unwrap();
    assert_eq!(rest(&mut broker).await, (b"de".into(), RESET));
    cut.happened(SOON).await.unwrap();
    assert_eq!(rest(&mut client).await.1, RESET);
    // Only once.
    assert!(bench.works().await);
}

#[tokio::test]
async fn cut_before_and_after_a_needle_in_pieces() {
    for before in [true, false] {
        let bench = Bench::new().await;
        let (mut client, mut broker) = bench.pair().await;
        let sight = Sight::to_broker("needle");
        let cut = match before {
            true => bench.proxy.cut_before(Target::All, sight),
            false => bench.proxy.cut_after(Target::All, sight),
        };
        client.write_all(b"need, nee").await.unwrap();
        assert_eq!(receive(&mut broker, 9).await, b"need, nee");
        client.write_all(b"dle. And more").await.unwrap();
        let last: &[u8] = if before { b"" } else { b"dle. And more" };
        assert_eq!(rest(&mut broker).await, (last.into(), RESET));
        cut.happened(SOON).await.unwrap();
        assert_eq!(bench.proxy.counts(Target::All).open, 0);
    }
}

#[tokio::test]
async fn cut_before_the_answer_to_a_needle() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.pair().await;
    let (mut other, mut other_broker) = bench.pair().await;
    let called_off = bench.proxy.cut_before(Target::All, Sight::from_broker("ok"));
    drop(called_off);
    let sight = Sight::to_broker("id 2")
        .then_to_broker("!")
        .then_from_broker("ok");
    let cut = bench.proxy.cut_before(Target::All, sight);

    for (request, reply) in [("id 1!", "ok 1"), ("id 2", "busy, wait")] {
        client.write_all(request.as_bytes()).await.unwrap();
        receive(&mut broker, request.len()).await;
        broker.write_all(reply.as_bytes()).await.unwrap();
        assert_eq!(receive(&mut client, reply.len()).await, reply.as_bytes());
    }
    client.write_all(b"!").await.unwrap();
    assert_eq!(receive(&mut broker, 1).await, b"!");
    // Each connection counts separately.
    other_broker.write_all(b"ok").await.unwrap();
    assert_eq!(receive(&mut other, 2).await, b"ok");

    broker.write_all(b"at last: ok 2").await.unwrap();
    assert_eq!(rest(&mut client).await, (b"at last: ".into(), RESET));
    cut.happened(SOON).await.unwrap();
    assert_eq!(bench.proxy.counts(Target::Nth(1)).open, 1);
}

#[tokio::test]
async fn unreachable_broker_is_a_reset() {
    let port = Port::reserve().unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", port.address);
    let proxy = Proxy::start(&url).await.unwrap();
    let mut client = connect(&proxy).await.unwrap();
    assert_eq!(rest(&mut client).await.1, RESET);

    let broker = port.listen().unwrap();
    let bench = Bench { broker, proxy };
    assert!(bench.works().await);
}

#[tokio::test]
async fn dropping_the_proxy_ends_its_connections() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.pair().await;
    drop(bench);
    assert_eq!(rest(&mut client).await, (vec![], Ok(())));
    assert_eq!(rest(&mut broker).await, (vec![], Ok(())));
}

#[tokio::test]
async fn connections_of_the_runtime_have_names() {
    let proxy = Proxy::start(rabbit::shared().await).await.unwrap();
    let hole = proxy.black_hole(Target::Named("rpc publish"), Direction::ToBroker);
    let connected = timeout(10 * MOMENT, Broker::connect(proxy.url())).await;
    assert!(connected.is_err(), "without its publishing connection");
    hole.heal().await;

    let _broker = timeout(SOON, Broker::connect(proxy.url()))
        .await
        .unwrap()
        .unwrap();
    for name in ["rpc publish", "rpc consume"] {
        assert!(proxy.counts(Target::Named(name)).open >= 1, "{name}");
    }
    assert_eq!(proxy.counts(Target::Named("nobody")), Counts::default());
}
