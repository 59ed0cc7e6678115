//! Limits of time and number.

use std::time::Duration;

use anyhow::bail;
use futures_util::future::select_all;
use rpc_runtime::{
    Broker, BrokerError, CallError, Executed, FaultCode, RequestQueue, Server, ServerError, Status,
};
use rpc_tests::asking::until_found;
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Direction, Proxy, Target};
use rpc_tests::rabbit::{Node, Vhost, shared, unique};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde_json::json;

use super::{CacheClient, CacheServer, ForeignWorker, Part, client, dynamic, serve, serve_with};

on_both_brokers! {
    too_many_broadcasts_are_refused_and_hide_no_worker,
    a_broadcast_that_waits_in_vain_did_not_run,
    what_cannot_run_does_not_wait_for_its_turn,
}

async fn too_many_broadcasts_are_refused_and_hide_no_worker(world: World) {
    const RUNNING: usize = 16;
    const WAITING: usize = 32;

    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("full", gate.clone());
    let server = serve(&world, &queue, &part).await;
    let caller = world.broker().await;
    let cache = client(&caller, &queue);
    let mut gathers = Vec::new();
    for _ in 0..=RUNNING + WAITING {
        gathers.push(cache.count("a").expect_workers(1).send().await.unwrap());
    }
    gate.began(RUNNING as u32).await;
    // Most often the last one.
    let answers = gathers.iter_mut().map(|gather| Box::pin(gather.next()));
    let (refused, number, _) = soon("one is refused", select_all(answers)).await;
    let Some((_, Err(CallError::Fault(fault)))) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(fault.code, FaultCode::Rejected);
    drop(gathers.remove(number));
    until_found(&caller, &queue, |worker| worker.name.as_deref() == Some("full")).await;
    gate.let_all_go();
    for gather in gathers {
        let gathered = soon("it answers", gather.collect()).await;
        assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 1);
    }
    assert_eq!(gate.most_inside(), RUNNING);
    server.stop().await.unwrap();
}

async fn a_broadcast_that_waits_in_vain_did_not_run(world: World) {
    let cache = CacheClient::builder(&world.broker().await)
        .queue(unique("cache"))
        .wait_for_server(true)
        .timeout(Duration::from_millis(300))
        .build();
    let did_not_run = |failed: CallError| match failed {
        CallError::TimedOut { executed, limit, .. } => {
            assert_eq!(limit, Duration::from_millis(300));
            // `Maybe` if the limit passes between sending the broadcast again and the broker's
            // answer.
            Ok(executed == Executed::No)
        }
        other => bail!("{other:?}"),
    };
    until("a broadcast with answers did not run", SOON, async || {
        did_not_run(cache.count("a").send().await.unwrap_err())
    })
    .await
    .unwrap();
    until("a one-way broadcast did not run", SOON, async || {
        did_not_run(cache.clear().await.unwrap_err())
    })
    .await
    .unwrap();
}

async fn what_cannot_run_does_not_wait_for_its_turn(world: World) {
    const RUNNING_AND_WAITING: usize = 48;

    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("full", gate.clone());
    let server = serve(&world, &queue, &part).await;
    let caller = world.broker().await;
    let cache = client(&caller, &queue);
    let mut gathers = Vec::new();
    for _ in 0..RUNNING_AND_WAITING - 1 {
        gathers.push(cache.count("a").expect_workers(1).send().await.unwrap());
    }
    gate.began(16).await;
    let broadcasts = dynamic(&caller, &queue, |_| true);
    for _ in 0..RUNNING_AND_WAITING {
        let sent = broadcasts.broadcast("get", json!({"key": "a"}));
        let sent = sent.expect_workers(1).send().await;
        let refused = soon("it is refused", sent.unwrap().collect()).await;
        let Err(CallError::Fault(fault)) = &refused.answers[0].1 else {
            panic!("{refused:?}");
        };
        assert_eq!(fault.code, FaultCode::UnknownMethod);
    }
    // There is still room for one that can run.
    gathers.push(cache.count("a").expect_workers(1).send().await.unwrap());
    gate.let_all_go();
    for gather in gathers {
        let gathered = soon("it answers", gather.collect()).await;
        assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 1);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_sent_while_the_broker_blocks() {
    let node = Node::start().await.unwrap();
    let part = Part::new("one");
    let worker = Broker::connect(node.url()).await.unwrap();
    let server = serve_with(&worker, "cache", &part).await;
    let caller = Broker::connect(node.url()).await.unwrap();
    let cache = client(&caller, "cache");
    node.ctl(&["set_vm_memory_high_watermark", "0.00001"])
        .await
        .unwrap();
    // The broker blocks a connection that publishes.
    let telltale = tokio::spawn(cache.get("telltale"));
    until("the broker blocks it", SOON, async || {
        Ok(matches!(caller.status(), Status::Blocked { .. }))
    })
    .await
    .unwrap();
    let limit = Duration::from_millis(300);
    let blocked = cache.count("a").limit(limit).send().await.map(drop);
    let oneway = cache.clear().timeout(limit).await;
    for failed in [blocked.unwrap_err(), oneway.unwrap_err()] {
        assert!(
            matches!(
                failed,
                CallError::TimedOut {
                    executed: Executed::No,
                    source: Some(BrokerError::Blocked { .. }),
                    ..
                }
            ),
            "{failed:?}"
        );
    }
    let patient = tokio::spawn(cache.count("a").expect_workers(1).send());
    tokio::time::sleep(limit).await;
    node.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"])
        .await
        .unwrap();
    let sent = soon("it is sent", patient).await.unwrap();
    assert_eq!(soon("it ends", sent.unwrap().collect()).await.missing, Some(0));
    soon("the call ends", telltale).await.unwrap().unwrap();
    server.stop().await.unwrap();
    // The call and the last broadcast.
    assert_eq!(part.runs(), 2);
}

#[tokio::test]
async fn opening_the_queue_for_answers_counts_toward_the_limit() {
    let queue = unique("cache");
    let server = serve(&World::RabbitMq, &queue, &Part::new("one")).await;
    let mut foreign = ForeignWorker::of(shared().await, &queue).await;
    let proxy = Proxy::start(shared().await).await.unwrap();
    let cache = client(&Broker::connect(proxy.url()).await.unwrap(), &queue);
    let (limit, pause) = (Duration::from_secs(15), Duration::from_secs(2));
    let hole = proxy.black_hole(Target::Named("rpc consume"), Direction::FromBroker);
    let sent = tokio::spawn(cache.count("a").expect_workers(1).limit(limit).send());
    tokio::time::sleep(pause).await;
    hole.heal().await;
    let gather = soon("it is sent", sent).await.unwrap().unwrap();
    let request = foreign.request().await;
    let left: u64 = request
        .properties
        .expiration()
        .as_ref()
        .unwrap()
        .as_str()
        .parse()
        .unwrap();
    assert!(Duration::from_millis(left) <= limit - pause, "{left}");
    soon("it answers", gather.collect()).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_broadcast_may_run_for_longer_than_the_broker_waits_for_an_acknowledgement() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let gate = Gate::closed();
    let part = Part::behind("slow", gate.clone());
    let server = serve_with(&broker, "cache", &part).await;
    let gather = client(&broker, "cache").count("a").expect_workers(1).send();
    let gather = gather.await.unwrap();
    gate.began(1).await;
    until("it is acknowledged", SOON, async || {
        let queues = vhost.all_queues(&["name", "messages_unacknowledged"]).await;
        Ok(queues
            .iter()
            .any(|queue| queue.starts_with("rpc.control.") && queue.ends_with("\t0")))
    })
    .await
    .unwrap();
    gate.let_all_go();
    assert_eq!(soon("it answers", gather.collect()).await.missing, Some(0));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_queue_that_cannot_be_deleted_does_not_prolong_the_drain_timeout() {
    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("stuck", gate.clone());
    let proxy = Proxy::start(shared().await).await.unwrap();
    let worker = Broker::connect(proxy.url()).await.unwrap();
    let drain = Duration::from_secs(2);
    let server = Server::new(&worker)
        .drain_timeout(drain)
        .serve_on(RequestQueue::new(&queue), CacheServer::new(part.clone()));
    let server = server.start().await.unwrap();
    client(&World::RabbitMq.broker().await, &queue)
        .clear()
        .await
        .unwrap();
    gate.began(1).await;
    let hole = proxy.black_hole(Target::Named("rpc consume"), Direction::FromBroker);
    let begun = tokio::time::Instant::now();
    let stopped = soon("it stops", server.stop()).await;
    assert!(
        matches!(stopped, Err(ServerError::DrainTimedOut { unfinished: 1, .. })),
        "{stopped:?}"
    );
    // Closing the channel of a request queue takes up to five seconds more, and a busy machine
    // some.
    let limit = drain + Duration::from_secs(20);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    hole.heal().await;
}
