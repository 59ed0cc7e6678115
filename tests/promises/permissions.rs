//! What a caller and a worker have to be allowed in RabbitMQ, and no more: the table in
//! `docs/production.md`.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::QueueDeclareOptions;
use rpc_runtime::middleware::Authorize;
use rpc_runtime::{
    Broker, BrokerError, CallError, Chain, Executed, FaultCode, ReplyQueue, RequestQueue, RunningServer,
    Server, ServerError, service,
};
use rpc_tests::gate::soon;
use rpc_tests::rabbit::{Permissions, Vhost};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;

#[service(queue = "shop")]
trait Shop {
    #[rpc(timeout = "30s")]
    async fn sell(&self, what: &str) -> String;
    #[rpc(oneway)]
    async fn note(&self, what: &str);
}

struct Counter;

impl Shop for Counter {
    async fn sell(&self, what: &str) -> String {
        what.to_owned()
    }

    async fn note(&self, _what: &str) {}
}

const NOTHING: &str = "^$";
const DEFAULT_EXCHANGE: &str = r"^amq[.]default$";
const REQUESTS: &str = "^shop([.]batch)?$";
const RESUMABLE: &str = "^rpc[.]reply[.]";
const EXCLUSIVE: &str = "^amq[.]gen-";

/// A worker that declares its queues.
const WORKER: Permissions<'_> = Permissions {
    configure: REQUESTS,
    write: DEFAULT_EXCHANGE,
    read: REQUESTS,
};

/// A caller with this kind of reply queue.
const fn caller(replies: ReplyQueue) -> Permissions<'static> {
    let replies = match replies {
        ReplyQueue::Exclusive => EXCLUSIVE,
        ReplyQueue::Direct => NOTHING,
        _ => RESUMABLE,
    };
    Permissions {
        configure: replies,
        write: DEFAULT_EXCHANGE,
        read: replies,
    }
}

/// A handle of a user who may do this.
async fn broker(vhost: &Vhost, may: Permissions<'_>, replies: ReplyQueue) -> Broker {
    let url = vhost.url_of_user(may).await;
    Broker::builder()
        .reply_queue(replies)
        .address(&url)
        .connect()
        .await
        .unwrap()
}

async fn serve(
    vhost: &Vhost,
    may: Permissions<'_>,
    queue: RequestQueue,
) -> Result<RunningServer, ServerError> {
    let broker = broker(vhost, may, ReplyQueue::default()).await;
    let server = Server::new(&broker).serve_on(queue, ShopServer::new(Counter));
    soon("the server starts, or says why not", server.start()).await
}

fn shop() -> RequestQueue {
    RequestQueue::new("shop")
}

/// The queues' names, and how many consumers each has.
async fn queues(vhost: &Vhost) -> Vec<String> {
    vhost.queues(&["name", "consumers"]).await
}

/// So many calls at once that they are batched, where they can be.
async fn call_often(caller: &Broker) {
    let client = ShopClient::new(caller);
    client.sell("bread").await.unwrap();
    client.note("sold").await.unwrap();
    for sold in join_all((0..300).map(|_| client.sell("bread"))).await {
        sold.unwrap();
    }
}

fn is_refused(error: &BrokerError) -> bool {
    Chain(error).to_string().contains("ACCESS_REFUSED")
}

#[track_caller]
fn assert_refused_queue<T>(outcome: Result<T, ServerError>) {
    match outcome {
        Err(ServerError::Broker(error @ BrokerError::Queue { .. })) if is_refused(&error) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_permissions_are_enough() {
    let vhost = Vhost::new().await;
    let server = serve(&vhost, WORKER, shop()).await.unwrap();
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let caller = broker(&vhost, caller(replies), replies).await;
        call_often(&caller).await;
        soon("the caller closes", caller.close()).await;
    }
    // Batched calls had their queue, and no reply queue is left.
    assert_eq!(queues(&vhost).await, ["shop\t1", "shop.batch\t1"]);
    soon("the worker stops", server.stop()).await.unwrap();
    // The shop has a one-way method, so both queues stay.
    assert_eq!(queues(&vhost).await, ["shop\t0", "shop.batch\t0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_existing_queues_needs_no_configure_permission() {
    let vhost = Vhost::new().await;
    let may = Permissions {
        configure: NOTHING,
        ..WORKER
    };
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    peer.declare_durable("shop").await.unwrap();
    let replies = ReplyQueue::default();
    let caller = broker(&vhost, caller(replies), replies).await;
    assert_refused_queue(serve(&vhost, may, shop()).await);

    for queue in [shop().existing(), shop().undeclared()] {
        let server = serve(&vhost, may, queue).await.unwrap();
        call_often(&caller).await;
        soon("the worker stops", server.stop()).await.unwrap();
    }
    peer.declare_durable("shop.batch").await.unwrap();
    let server = serve(&vhost, may, shop().existing()).await.unwrap();
    call_often(&caller).await;
    let queues = queues(&vhost).await;
    assert!(queues.contains(&"shop.batch\t1".to_owned()), "{queues:?}");
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_the_queue_for_batched_calls_takes_them_one_by_one() {
    let vhost = Vhost::new().await;
    let may = Permissions {
        configure: "^shop$",
        read: "^shop$",
        ..WORKER
    };
    let server = serve(&vhost, may, shop()).await.unwrap();
    let replies = ReplyQueue::default();
    let caller = broker(&vhost, caller(replies), replies).await;
    call_often(&caller).await;
    soon("the caller closes", caller.close()).await;
    assert_eq!(queues(&vhost).await, ["shop\t1"]);
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_need_no_more() {
    let vhost = Vhost::new().await;
    let queue = shop().dead_letter_to("dead");
    serve(&vhost, WORKER, queue).await.unwrap().stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_needs_permission_to_read_its_queue_and_to_write_replies() {
    let vhost = Vhost::new().await;
    let blind = Permissions {
        read: NOTHING,
        ..WORKER
    };
    assert_refused_queue(serve(&vhost, blind, shop()).await);

    let mute = Permissions {
        write: NOTHING,
        ..WORKER
    };
    let server = serve(&vhost, mute, shop()).await.unwrap();
    let replies = ReplyQueue::default();
    let caller = broker(&vhost, caller(replies), replies).await;
    let client = ShopClient::new(&caller);
    let call = client.sell("bread").timeout(Duration::from_secs(5));
    let error = soon("the call ends", call).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.executed(), Executed::Maybe);
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_write_permission_gets_an_error() {
    let vhost = Vhost::new().await;
    let _server = serve(&vhost, WORKER, shop()).await.unwrap();
    for replies in [ReplyQueue::Resumable, ReplyQueue::Direct] {
        let mute = Permissions {
            write: NOTHING,
            ..caller(replies)
        };
        let caller = broker(&vhost, mute, replies).await;
        let calling = ShopClient::new(&caller);
        let error = soon("the call ends", calling.sell("bread")).await.unwrap_err();
        match &error {
            CallError::Broker { source, .. } => assert!(is_refused(source), "{error:?}"),
            other => panic!("{other:?}"),
        }
        soon("the caller closes", caller.close()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_permission_for_its_reply_queue_fails_and_leaves_no_queue() {
    let vhost = Vhost::new().await;
    let server = serve(&vhost, WORKER, shop()).await.unwrap();
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive] {
        let all = caller(replies);
        let (no_configure, no_read) = (
            Permissions {
                configure: NOTHING,
                ..all
            },
            Permissions { read: NOTHING, ..all },
        );
        for may in [no_configure, no_read] {
            let caller = broker(&vhost, may, replies).await;
            let client = ShopClient::new(&caller);
            let error = soon("the call ends", client.sell("bread")).await.unwrap_err();
            match &error {
                CallError::Broker {
                    source: source @ BrokerError::Queue { .. },
                    executed: Executed::No,
                    ..
                } => assert!(is_refused(source), "{error:?}"),
                other => panic!("{other:?}"),
            }
            // It is tried again and again, and those that were declared are deleted. On a busy
            // machine, there is one most of the time.
            let none_is_left =
                async || Ok(queues(&vhost).await.iter().all(|queue| queue.starts_with("shop")));
            until("no reply queue is left", Duration::from_secs(60), none_is_left)
                .await
                .unwrap();
            soon("the caller closes", caller.close()).await;
        }
    }
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test]
async fn a_worker_authorizes_each_user() {
    let vhost = Vhost::new().await;
    let may = caller(ReplyQueue::Resumable);
    let (till, office) = (vhost.url_of_user(may).await, vhost.url_of_user(may).await);
    let rules = Authorize::new()
        .allow(user_of(&till), ["Shop.sell"])
        .allow(user_of(&office), ["Shop.note"]);
    let worker = broker(&vhost, WORKER, ReplyQueue::default()).await;
    let server = Server::new(&worker)
        .layer(rules)
        .serve_on(shop(), ShopServer::new(Counter))
        .start();
    let server = server.await.unwrap();

    let client = async |url: &str, says_who| {
        let broker = Broker::builder()
            .send_user_id(says_who)
            .address(url)
            .connect()
            .await;
        ShopClient::new(&broker.unwrap())
    };
    assert_eq!(client(&till, true).await.sell("bread").await.unwrap(), "bread");
    for nobody in [client(&office, true).await, client(&till, false).await] {
        let refused = nobody.sell("bread").await.unwrap_err();
        assert_eq!(refused.executed(), Executed::No);
        assert!(
            matches!(&refused, CallError::Fault(fault) if fault.code == FaultCode::Unauthorized),
            "{refused:?}"
        );
    }
    server.stop().await.unwrap();
}

/// The user of an address.
fn user_of(url: &str) -> String {
    let (user, _) = url
        .strip_prefix("amqp://")
        .and_then(|rest| rest.split_once(':'))
        .expect("an address with a user");
    user.to_owned()
}

/// What this user is told who asks whether a queue of somebody else is there.
async fn asks_for(vhost: &Vhost, may: Permissions<'_>, queue: &str) -> lapin::Result<()> {
    let peer = RawPeer::connect(&vhost.url_of_user(may).await).await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let asked = peer
        .channel()
        .queue_declare(queue.into(), passive, Default::default());
    asked.await.map(drop)
}

#[tokio::test]
async fn any_permission_for_a_queue_allows_a_passive_declare() {
    let vhost = Vhost::new().await;
    let owner = RawPeer::connect(&vhost.url()).await.unwrap();
    owner.declare_durable("shop").await.unwrap();
    let nothing = Permissions {
        configure: NOTHING,
        write: NOTHING,
        read: NOTHING,
    };
    for may in [
        Permissions {
            configure: REQUESTS,
            ..nothing
        },
        Permissions {
            write: REQUESTS,
            ..nothing
        },
        Permissions {
            read: REQUESTS,
            ..nothing
        },
    ] {
        asks_for(&vhost, may, "shop").await.unwrap();
    }
    // Before 4.3, everybody may.
    let refused = asks_for(&vhost, nothing, "shop").await;
    assert_eq!(refused.is_err(), vhost.version().await >= (4, 3), "{refused:?}");
}
