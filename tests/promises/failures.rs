//! What fails says so, soon, and says whether the method ran; nothing else fails with it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rpc_runtime::{
    Answer, Broker, BrokerError, CallError, Executed, Fault, FaultCode, Invocation, RequestQueue,
    RunningServer, Server, ServerError, Service, ServiceClient, ServiceDescriptor, service,
};
use rpc_tests::on_both_brokers;
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::world::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use rpc_tests::gate::{Gate, SOON, soon};

#[service]
trait Desk {
    async fn echo(&self, text: &str) -> String;
    async fn held(&self, text: &str) -> String;
    #[rpc(timeout = "4s")]
    async fn held_briefly(&self) -> String;
    async fn explode(&self) -> String;
    async fn produce(&self, bytes: usize) -> Vec<u8>;
    async fn consume(&self, bytes: &[u8]) -> usize;
}

/// The same service as a newer caller knows it.
#[service]
trait NewerDesk {
    async fn translate(&self, text: &str) -> String;
}

/// The same service as a caller knows it who is wrong about a type.
#[service]
trait MistakenDesk {
    async fn echo(&self, text: &str) -> u64;
}

#[derive(Clone)]
struct Clerk {
    gate: Gate,
    consumed: Arc<AtomicUsize>,
}

impl Clerk {
    fn new() -> Self {
        Self {
            gate: Gate::closed(),
            consumed: Arc::default(),
        }
    }

    fn consumed(&self) -> usize {
        self.consumed.load(Ordering::SeqCst)
    }
}

impl Desk for Clerk {
    async fn echo(&self, text: &str) -> String {
        text.to_owned()
    }

    async fn held(&self, text: &str) -> String {
        self.gate.pass().await;
        text.to_owned()
    }

    async fn held_briefly(&self) -> String {
        self.gate.pass().await;
        String::new()
    }

    async fn explode(&self) -> String {
        panic!("the handler panics on purpose, and s3cret is not for the caller")
    }

    async fn produce(&self, bytes: usize) -> Vec<u8> {
        vec![7; bytes]
    }

    async fn consume(&self, bytes: &[u8]) -> usize {
        self.consumed.fetch_add(1, Ordering::SeqCst);
        bytes.len()
    }
}

/// Serves on this handle, one request at a time: what is answered next proves that the one before
/// was settled.
async fn serve(broker: &Broker, queue: &str, clerk: &Clerk) -> RunningServer {
    Server::new(broker)
        .concurrency(1)
        .serve_on(RequestQueue::new(queue), DeskServer::new(clerk.clone()))
        .start()
        .await
        .expect("the server starts")
}

fn client(broker: &Broker, queue: &str) -> DeskClient {
    DeskClient::builder(broker).queue(queue).build()
}

/// The fault that a call ended with.
fn fault<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> Fault {
    match outcome.expect_err("the call fails") {
        CallError::Fault(fault) => fault,
        other => panic!("{other:?}"),
    }
}

on_both_brokers! {
    an_unroutable_request_fails_at_once,
    each_of_many_calls_gets_its_own_verdict,
    a_time_out_tells_its_limit_and_that_the_method_may_have_run,
    a_late_reply_reaches_no_other_call,
    a_panic_fails_its_own_call_and_no_other,
    a_method_that_the_worker_does_not_know_is_a_fault,
    a_request_too_large_to_send_is_not_sent,
    a_request_larger_than_the_worker_accepts_is_refused,
    a_reply_too_large_to_send_is_a_fault,
    a_reply_larger_than_the_caller_accepts_is_not_read,
    names_that_amqp_cannot_carry_fail_their_call,
    a_reply_of_another_type_is_not_readable,
    closing_the_handle_fails_the_calls_in_flight_at_once,
    closing_the_handle_ends_its_server,
    a_service_that_panics_at_once_fails_its_calls_and_no_more,
    a_call_without_time_left_is_not_sent,
}

async fn an_unroutable_request_fails_at_once(world: World) {
    let missing = unique("missing");
    let desk = client(&world.broker().await, &missing);
    let error = soon("the verdict", desk.echo("anybody?")).await.unwrap_err();
    assert_eq!(error.executed(), Executed::No);
    match error {
        CallError::NoServer { queue, .. } => assert_eq!(queue, missing),
        other => panic!("{other:?}"),
    }
    // Not a name that a queue can have.
    let error = soon("the verdict", client(&world.broker().await, "").echo("anybody?")).await;
    assert!(matches!(error, Err(CallError::Invalid { .. })), "{error:?}");
}

async fn each_of_many_calls_gets_its_own_verdict(world: World) {
    let (queue, missing) = (unique("desk"), unique("missing"));
    let server = serve(&world.broker().await, &queue, &Clerk::new()).await;
    let broker = world.broker().await;
    let (routable, unroutable) = (client(&broker, &queue), client(&broker, &missing));

    let calls = (0..600).map(|n| {
        let (routable, unroutable, text) = (&routable, &unroutable, n.to_string());
        async move {
            // Runs of both kinds, of different lengths.
            if n % 7 < 3 || n % 2 == 0 {
                assert_eq!(routable.echo(&text).await.unwrap(), text);
            } else {
                let error = unroutable.echo(&text).await.unwrap_err();
                assert!(matches!(error, CallError::NoServer { .. }), "call {n}: {error:?}");
            }
        }
    });
    soon("all verdicts", join_all(calls)).await;
    server.stop().await.unwrap();
}

async fn a_time_out_tells_its_limit_and_that_the_method_may_have_run(world: World) {
    let queue = unique("desk");
    let _server = serve(&world.broker().await, &queue, &Clerk::new()).await;
    let broker = world.broker().await;
    let desk = DeskClient::builder(&broker)
        .queue(&queue)
        .timeout(Duration::from_secs(3))
        .build();
    let time_out = async |call: rpc_runtime::Call<String>| match call.await.unwrap_err() {
        CallError::TimedOut { limit, executed, .. } => {
            assert_eq!(executed, Executed::Maybe);
            limit
        }
        other => panic!("{other:?}"),
    };

    // The call's own limit counts, else the method's, else the client's.
    assert_eq!(desk.echo("a").timeout(SOON).await.unwrap(), "a");
    let limit = Duration::from_millis(2500);
    let limits = tokio::join!(
        time_out(desk.held("b")),
        time_out(desk.held_briefly()),
        time_out(desk.held("c").timeout(limit))
    );
    assert_eq!(limits, (Duration::from_secs(3), Duration::from_secs(4), limit));
}

async fn a_late_reply_reaches_no_other_call(world: World) {
    let (queue, clerk) = (unique("desk"), Clerk::new());
    let server = serve(&world.broker().await, &queue, &clerk).await;
    let desk = client(&world.broker().await, &queue);

    // Given up while the method runs.
    assert_eq!(desk.echo("before").await.unwrap(), "before");
    let late = tokio::spawn(desk.held("late").timeout(Duration::from_secs(4)));
    clerk.gate.began(1).await;
    let error = late.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");

    // One request at a time: the late reply goes out first, and arrives while the next call waits.
    let next = tokio::spawn(desk.held("next"));
    clerk.gate.let_go(1);
    clerk.gate.began(1).await;
    assert!(!next.is_finished(), "the late reply ended another call");
    clerk.gate.let_go(1);
    assert_eq!(soon("its own reply", next).await.unwrap().unwrap(), "next");
    assert_eq!(desk.echo("after").await.unwrap(), "after");
    server.stop().await.unwrap();
}

async fn a_panic_fails_its_own_call_and_no_other(world: World) {
    let (queue, clerk) = (unique("desk"), Clerk::new());
    let broker = world.broker().await;
    let server = Server::new(&broker)
        .concurrency(2)
        .serve_on(RequestQueue::new(&queue), DeskServer::new(clerk.clone()))
        .start()
        .await
        .unwrap();
    let desk = client(&world.broker().await, &queue);

    let other = tokio::spawn(desk.held("unharmed"));
    clerk.gate.began(1).await;
    // More panics than requests at a time: each gives its place back.
    for _ in 0..3 {
        let fault = fault(soon("the fault", desk.explode()).await);
        assert_eq!(fault.code, FaultCode::Panicked);
        assert_eq!(fault.code.executed(), Executed::Yes);
        assert!(!fault.message.contains("s3cret"), "{fault}");
    }
    clerk.gate.let_go(1);
    assert_eq!(soon("the other call", other).await.unwrap().unwrap(), "unharmed");
    assert_eq!(desk.echo("after").await.unwrap(), "after");
    server.stop().await.unwrap();
}

async fn a_method_that_the_worker_does_not_know_is_a_fault(world: World) {
    let queue = unique("desk");
    let server = serve(&world.broker().await, &queue, &Clerk::new()).await;
    let broker = world.broker().await;
    let newer = NewerDeskClient::builder(&broker).queue(&queue).build();

    let error = soon("the fault", newer.translate("x")).await;
    assert_eq!(error.as_ref().unwrap_err().executed(), Executed::No);
    let fault = fault(error);
    assert_eq!(fault.code, FaultCode::UnknownMethod);
    assert!(fault.message.contains("translate"), "{fault}");
    assert_eq!(client(&broker, &queue).echo("after").await.unwrap(), "after");
    server.stop().await.unwrap();
}

async fn a_request_too_large_to_send_is_not_sent(world: World) {
    let (queue, clerk) = (unique("desk"), Clerk::new());
    let server = serve(&world.broker().await, &queue, &clerk).await;
    let desk = client(
        &world.broker_with(Broker::builder().max_sent_bytes(1000)).await,
        &queue,
    );

    let error = desk.consume(&[0; 1000]).await.unwrap_err();
    assert_eq!(error.executed(), Executed::No);
    match error {
        CallError::TooLarge {
            size, limit: 1000, ..
        } => assert!((1001..1100).contains(&size), "{size}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(desk.consume(&[0; 900]).await.unwrap(), 900);
    server.stop().await.unwrap();
    assert_eq!(clerk.consumed(), 1, "what is too large never arrives");
}

async fn a_request_larger_than_the_worker_accepts_is_refused(world: World) {
    let (queue, clerk) = (unique("desk"), Clerk::new());
    let modest = world
        .broker_with(Broker::builder().max_accepted_bytes(1000))
        .await;
    let server = serve(&modest, &queue, &clerk).await;
    let desk = client(&world.broker().await, &queue);

    let outcome = soon("the fault", desk.consume(&[0; 1000])).await;
    assert_eq!(outcome.as_ref().unwrap_err().executed(), Executed::No);
    assert_eq!(fault(outcome).code, FaultCode::TooLarge);
    assert_eq!(desk.consume(&[0; 900]).await.unwrap(), 900);
    server.stop().await.unwrap();
    assert_eq!(clerk.consumed(), 1, "what is too large is not run");
}

async fn a_reply_too_large_to_send_is_a_fault(world: World) {
    let queue = unique("desk");
    let modest = world.broker_with(Broker::builder().max_sent_bytes(1000)).await;
    let server = serve(&modest, &queue, &Clerk::new()).await;
    let desk = client(&world.broker().await, &queue);

    let outcome = soon("the fault", desk.produce(1000)).await;
    assert_eq!(outcome.as_ref().unwrap_err().executed(), Executed::Yes);
    assert_eq!(fault(outcome).code, FaultCode::ReplyTooLarge);
    assert_eq!(desk.produce(900).await.unwrap().len(), 900);
    server.stop().await.unwrap();
}

async fn a_reply_larger_than_the_caller_accepts_is_not_read(world: World) {
    let queue = unique("desk");
    let server = serve(&world.broker().await, &queue, &Clerk::new()).await;
    let modest = world
        .broker_with(Broker::builder().max_accepted_bytes(1000))
        .await;
    let desk = client(&modest, &queue);

    let error = soon("the reply", desk.produce(1000)).await.unwrap_err();
    // It was not read, so not even its kind counts.
    assert_eq!(error.executed(), Executed::Maybe);
    assert!(matches!(error, CallError::BadReply { .. }), "{error:?}");
    assert_eq!(desk.produce(900).await.unwrap().len(), 900);
    server.stop().await.unwrap();
}

async fn names_that_amqp_cannot_carry_fail_their_call(world: World) {
    let queue = unique("desk");
    let broker = world.broker().await;
    let server = serve(&broker, &queue, &Clerk::new()).await;
    let (fits, too_long) = ("n".repeat(255), "n".repeat(256));
    let invalid = |outcome: Result<String, CallError>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.executed(), Executed::No);
        assert!(matches!(error, CallError::Invalid { .. }), "{error:?}");
    };

    let desk = client(&broker, &queue);
    // The first thing that does not fit counts, and later options do not cover it up.
    let call = desk
        .echo("a")
        .header(&too_long, "x")
        .header("fits", "x")
        .priority(1);
    invalid(call.await);
    invalid(client(&broker, &too_long).echo("a").await);
    // 128 characters, and 256 bytes.
    invalid(desk.echo("a").header("é".repeat(128), "x").await);

    // All headers together have a limit of their own: more would not fit the frame, and end the
    // connection.
    let (just, too_much) = ("v".repeat(4090 - 255), "v".repeat(4091 - 255));
    assert_eq!(desk.echo("b").header(&fits, &just).await.unwrap(), "b");
    invalid(desk.echo("a").header(&fits, &too_much).await);
    invalid(desk.echo("a").header(&fits, "x").header("second", &just).await);
    // RabbitMQ would copy the request to other queues, or end the channel.
    for copies in ["CC", "BCC"] {
        invalid(desk.echo("a").header(copies, "elsewhere").await);
    }
    let nobody = client(&broker, &fits).echo("b").await;
    assert!(matches!(nobody, Err(CallError::NoServer { .. })), "{nobody:?}");
    server.stop().await.unwrap();

    let refused = Server::new(&broker)
        .serve_on(RequestQueue::new(&too_long), DeskServer::new(Clerk::new()))
        .start()
        .await
        .unwrap_err();
    assert!(matches!(refused, ServerError::InvalidQueue { .. }), "{refused:?}");
}

async fn a_reply_of_another_type_is_not_readable(world: World) {
    let queue = unique("desk");
    let server = serve(&world.broker().await, &queue, &Clerk::new()).await;
    let broker = world.broker().await;
    let mistaken = MistakenDeskClient::builder(&broker).queue(&queue).build();

    let error = soon("the reply", mistaken.echo("not a number"))
        .await
        .unwrap_err();
    assert_eq!(error.executed(), Executed::Yes);
    assert!(matches!(error, CallError::BadReply { .. }), "{error:?}");
    assert_eq!(client(&broker, &queue).echo("after").await.unwrap(), "after");
    server.stop().await.unwrap();
}

async fn closing_the_handle_fails_the_calls_in_flight_at_once(world: World) {
    let (queue, clerk) = (unique("desk"), Clerk::new());
    let server = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&queue), DeskServer::new(clerk.clone()))
        .start()
        .await
        .unwrap();
    let broker = world.broker().await;
    let desk = client(&broker, &queue);

    let calls: Vec<_> = (0..10).map(|_| tokio::spawn(desk.held("a"))).collect();
    clerk.gate.began(10).await;
    soon("the handle closes", broker.close()).await;
    for call in calls {
        let error = soon("the call ends", call).await.unwrap().unwrap_err();
        assert_eq!(error.executed(), Executed::Maybe);
        assert!(is_closed(&error), "{error:?}");
    }
    let error = soon("a new call", desk.echo("b")).await.unwrap_err();
    assert_eq!(error.executed(), Executed::No);
    assert!(is_closed(&error), "{error:?}");
    // Twice is once.
    soon("the handle closes again", broker.close()).await;

    // The worker, on a handle of its own, goes on.
    clerk.gate.let_all_go();
    let another = client(&world.broker().await, &queue);
    assert_eq!(another.echo("after").await.unwrap(), "after");
    server.stop().await.unwrap();
}

async fn closing_the_handle_ends_its_server(world: World) {
    let broker = world.broker().await;
    let running = serve(&broker, &unique("desk"), &Clerk::new()).await;
    let server =
        Server::new(&broker).serve_on(RequestQueue::new(unique("desk")), DeskServer::new(Clerk::new()));
    let run = tokio::spawn(server.run());

    soon("the handle closes", broker.close()).await;
    let ended = soon("the server ends by itself", run).await.unwrap();
    assert!(matches!(ended, Err(ServerError::Broker(_))), "{ended:?}");
    let ended = soon("the server stops", running.stop()).await;
    assert!(matches!(ended, Err(ServerError::Broker(_))), "{ended:?}");
}

fn is_closed<E>(error: &CallError<E>) -> bool {
    matches!(
        error,
        CallError::Broker {
            source: BrokerError::Closed,
            ..
        }
    )
}

/// An error as a program might log it, in every way there is.
fn everything_told(error: &BrokerError) -> String {
    let mut told = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        told.push_str(&format!(" {error} {error:?} {error:#?}"));
        source = error.source();
    }
    told
}

async fn refused_connection(url: &str) -> BrokerError {
    let attempt = Broker::builder()
        .connect_timeout(Duration::from_secs(5))
        .address(url)
        .connect();
    soon("the attempt ends", attempt)
        .await
        .expect_err("nobody serves there")
}

/// The shared broker's host and port.
async fn authority() -> &'static str {
    let url = shared().await;
    let (_, rest) = url.split_once("://").expect("a URL");
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[tokio::test]
async fn a_refused_connection_tells_the_host_and_no_password() {
    let error = refused_connection("amqp://alice:s3cret@127.0.0.1:1/%2f").await;
    match &error {
        BrokerError::Connect { host, .. } => assert_eq!(host, "127.0.0.1:1"),
        other => panic!("{other:?}"),
    }
    assert!(!everything_told(&error).contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn a_refused_login_tells_no_password() {
    let url = format!("amqp://nobody:s3cret@{}", authority().await);
    let error = refused_connection(&url).await;
    assert!(matches!(error, BrokerError::Connect { .. }), "{error:?}");
    let told = everything_told(&error);
    assert!(told.contains("ACCESS_REFUSED"), "{told}");
    assert!(!told.contains("s3cret"), "{told}");
}

#[tokio::test]
async fn a_bad_address_tells_no_password() {
    for url in [
        "",
        "localhost",
        "http://alice:s3cret@localhost",
        "amqp://alice:s3cret@localhost:port",
        "amqp://alice:s3cret@localhost:70000",
        "amqp://alice:s3cret@[::1",
    ] {
        let error = refused_connection(url).await;
        assert!(
            matches!(error, BrokerError::InvalidAddress { .. }),
            "{url}: {error:?}"
        );
        assert!(!everything_told(&error).contains("s3cret"), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn a_handle_shows_no_credentials() {
    let url = format!("amqp://guest:guest@{}", authority().await);
    let broker = Broker::connect(&url).await.unwrap();
    let shown = format!("{broker:?} {:?} {:?}", client(&broker, "q"), Server::new(&broker));
    assert!(!shown.contains("guest"), "{shown}");
    broker.close().await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up_in_time() {
    let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("amqp://alice:s3cret@{}", peer.local_addr().unwrap());
    // It accepts, and keeps what it accepted.
    let silent = async {
        let mut accepted = Vec::new();
        loop {
            accepted.push(peer.accept().await.unwrap());
        }
    };
    let patience = Duration::from_millis(200);
    let attempt = Broker::builder()
        .connect_timeout(patience)
        .address(&url)
        .connect();
    let error = tokio::select! {
        () = silent => unreachable!(),
        outcome = timeout(Duration::from_secs(5), attempt) => outcome.expect("it gives up").unwrap_err(),
    };
    match &error {
        BrokerError::Unresponsive { limit, .. } => assert_eq!(*limit, patience),
        other => panic!("{other:?}"),
    }
    assert!(!everything_told(&error).contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_does_not_speak_amqp_has_its_own_error() {
    let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("amqp://{}", peer.local_addr().unwrap());
    let web_server = async {
        loop {
            let (mut stream, _) = peer.accept().await.unwrap();
            let _ = stream.read(&mut [0; 8]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    };
    let error = tokio::select! {
        () = web_server => unreachable!(),
        error = refused_connection(&url) => error,
    };
    assert!(matches!(error, BrokerError::Connect { .. }), "{error:?}");
}

/// Written by hand, as anybody may; this one panics before it has a future.
struct Hasty;

impl Service for Hasty {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        <DeskClient as ServiceClient>::SERVICE
    }

    fn handle<'a>(
        &'a self,
        invocation: &'a Invocation,
    ) -> futures_util::future::BoxFuture<'a, Result<Answer, Fault>> {
        panic!("no future for {}", invocation.method());
    }
}

async fn a_service_that_panics_at_once_fails_its_calls_and_no_more(world: World) {
    let queue = unique("desk");
    let broker = world.broker().await;
    let server = Server::new(&broker)
        .concurrency(1)
        .serve_on(RequestQueue::new(&queue), Hasty)
        .start()
        .await
        .unwrap();
    let desk = client(&broker, &queue);
    // More often than the worker runs at once: each was settled.
    for _ in 0..3 {
        let fault = fault(soon("the fault", desk.echo("a")).await);
        assert_eq!(fault.code, FaultCode::Panicked);
    }
    server.stop().await.unwrap();
}

async fn a_call_without_time_left_is_not_sent(world: World) {
    let missing = unique("missing");
    let desk = client(&world.broker().await, &missing);
    // Sent, it would come back as `NoServer`.
    let error = desk.echo("a").timeout(Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(
            error,
            CallError::TimedOut {
                executed: Executed::No,
                ..
            }
        ),
        "{error:?}"
    );
}
