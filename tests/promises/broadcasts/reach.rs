//! Who runs a broadcast, and who answers.

use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{
    Broker, CallError, Codec, DynamicClient, Executed, FaultCode, GatherEnd, MethodKind, ReplyQueue,
    RequestQueue, Server, ServiceClient,
};
use rpc_tests::asking::until_found;
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Proxy, Sight, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde_json::json;

use super::{CacheClient, CacheServer, NoSource, Part, by_name, client, dynamic, serve, serve_with};

on_both_brokers! {
    every_worker_answers_with_its_identity,
    the_failure_of_a_worker_hides_no_other,
    a_broadcast_without_workers_fails_at_once,
    a_one_way_broadcast_runs_on_every_worker,
    a_busy_worker_takes_part,
    a_stopping_worker_ends_its_broadcasts,
    a_queue_refuses_broadcasts_and_the_control_exchange_refuses_calls,
    broadcasts_work_with_every_codec_and_reply_queue,
    a_dynamic_client_broadcasts,
    broadcasts_are_counted,
    a_broadcast_that_waits_for_a_server_reaches_it,
}

async fn every_worker_answers_with_its_identity(world: World) {
    let queue = unique("cache");
    let parts = ["one", "two", "three"].map(Part::new);
    let mut servers = Vec::new();
    for part in &parts {
        servers.push(serve(&world, &queue, part).await);
    }
    let elsewhere = Part::new("elsewhere");
    servers.push(serve(&world, &unique("cache"), &elsewhere).await);
    let caller = world.broker().await;
    let survey = client(&caller, &queue).count("users/");
    let gather = survey.quiet_for(Duration::from_secs(3)).send().await.unwrap();
    let gathered = soon("it ends", gather.collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Quiet), "{:?}", gathered.end);
    assert_eq!(gathered.missing, None);
    for (worker, answer) in &gathered.answers {
        assert_eq!(*answer.as_ref().unwrap(), 6);
        assert_eq!(worker.pid, std::process::id());
        // The same identity by which discovery finds it.
        until_found(&caller, &queue, |found| {
            found.id == worker.id && found.name == worker.name
        })
        .await;
    }
    let names: Vec<_> = by_name(gathered).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["one", "three", "two"]);
    assert!(parts.iter().all(|part| part.runs() == 1));
    assert_eq!(elsewhere.runs(), 0);
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn the_failure_of_a_worker_hides_no_other(world: World) {
    let queue = unique("cache");
    let mut servers = Vec::new();
    for name in ["works", "fails", "panics"] {
        servers.push(serve(&world, &queue, &Part::new(name)).await);
    }
    let caller = world.broker().await;
    let gather = client(&caller, &queue).reload("disk").expect_workers(3).send();
    let gathered = soon("it ends", gather.await.unwrap().collect()).await;
    assert_eq!(gathered.missing, Some(0));
    let answers = by_name(gathered);
    let [(_, fails), (_, panics), (_, works)] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert!(
        matches!(fails, Err(CallError::Service(NoSource(from))) if from == "disk"),
        "{fails:?}"
    );
    let Err(CallError::Fault(fault)) = panics else {
        panic!("{panics:?}");
    };
    assert_eq!(fault.code, FaultCode::Panicked);
    assert_eq!(works.as_ref().unwrap(), "works");
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn a_broadcast_without_workers_fails_at_once(world: World) {
    let queue = unique("cache");
    let caller = world.broker().await;
    let cache = client(&caller, &queue);
    let part = Part::new("one");
    for _ in 0..2 {
        let refused = soon("it fails", cache.count("").limit(SOON * 10).send())
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, CallError::NoWorkers { queue: named, .. } if *named == queue),
            "{refused:?}"
        );
        assert!(refused.is_retryable() && refused.executed() == Executed::No);
        let refused = soon("it fails", cache.clear()).await.unwrap_err();
        assert!(matches!(refused, CallError::NoWorkers { .. }), "{refused:?}");
        // Nor if the workers are gone and the queue is left.
        serve(&world, &queue, &part).await.stop().await.unwrap();
    }
    assert_eq!(part.runs(), 0);
}

async fn a_one_way_broadcast_runs_on_every_worker(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let parts = ["one", "two"].map(|name| Part::behind(name, gate.clone()));
    let servers = [
        serve(&world, &queue, &parts[0]).await,
        serve(&world, &queue, &parts[1]).await,
    ];
    let cache = client(&world.broker().await, &queue);
    // It does not wait for the methods.
    soon("it is confirmed", cache.clear()).await.unwrap();
    gate.began(2).await;
    gate.let_all_go();
    for (server, part) in servers.into_iter().zip(&parts) {
        server.stop().await.unwrap();
        assert_eq!(part.runs(), 1);
    }
}

async fn a_busy_worker_takes_part(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("busy", gate.clone());
    let server = Server::new(&world.broker().await).concurrency(1);
    let server = server.serve_on(RequestQueue::new(&queue), CacheServer::new(part.clone()));
    let server = server.start().await.unwrap();
    let caller = world.broker().await;
    let cache = client(&caller, &queue);
    let held = tokio::spawn(async move { cache.get("a").await });
    gate.began(1).await;
    let sent = client(&caller, &queue).observe().expect_workers(1).send().await;
    let gathered = soon("it answers", sent.unwrap().collect()).await;
    assert_eq!(gathered.missing, Some(0));
    gate.let_all_go();
    held.await.unwrap().unwrap();
    server.stop().await.unwrap();
}

async fn a_stopping_worker_ends_its_broadcasts(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("stops", gate.clone());
    let server = serve(&world, &queue, &part).await;
    let cache = client(&world.broker().await, &queue);
    let gather = cache.count("abc").expect_workers(1).send().await.unwrap();
    gate.began(1).await;
    let stopping = tokio::spawn(server.stop());
    until("no further broadcast reaches it", SOON, async || {
        Ok(matches!(cache.clear().await, Err(CallError::NoWorkers { .. })))
    })
    .await
    .unwrap();
    gate.let_all_go();
    let gathered = soon("it answers", gather.collect()).await;
    assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 3);
    soon("it stops", stopping).await.unwrap().unwrap();
}

async fn a_queue_refuses_broadcasts_and_the_control_exchange_refuses_calls(world: World) {
    let queue = unique("cache");
    let part = Part::new("one");
    let server = serve(&world, &queue, &part).await;
    let caller = world.broker().await;
    let calls = dynamic(&caller, &queue, |_| false);
    let refused = soon("it answers", calls.call("count", json!({"prefix": "a"}))).await;
    let Err(CallError::Fault(fault)) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(fault.code, FaultCode::UnknownMethod);
    assert!(fault.message.contains("rpc.control"), "{fault}");
    let broadcasts = dynamic(&caller, &queue, |_| true);
    for (method, arguments) in [("get", json!({"key": "a"})), ("rpc.ping", json!({}))] {
        let sent = broadcasts
            .broadcast(method, arguments)
            .expect_workers(1)
            .send()
            .await;
        let sent = match (method, sent) {
            // The description has only the service's methods.
            ("rpc.ping", Err(CallError::NotDescribed { .. })) => continue,
            (_, sent) => sent,
        };
        let refused = soon("it answers", sent.unwrap().collect()).await;
        let Err(CallError::Fault(fault)) = &refused.answers[0].1 else {
            panic!("{refused:?}");
        };
        assert_eq!(fault.code, FaultCode::UnknownMethod);
    }
    assert_eq!(part.runs(), 0);
    server.stop().await.unwrap();
}

async fn broadcasts_work_with_every_codec_and_reply_queue(world: World) {
    let queue = unique("cache");
    let server = serve(&world, &queue, &Part::new("fails")).await;
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let caller = world.broker_with(Broker::builder().reply_queue(replies)).await;
        for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
            let cache = CacheClient::builder(&caller).queue(&queue).codec(codec).build();
            let sent = cache.count("abcd").expect_workers(1).send().await;
            let gathered = soon("it answers", sent.unwrap().collect()).await;
            assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 4);
            let sent = cache.reload("tape").expect_workers(1).send().await;
            let gathered = soon("it answers", sent.unwrap().collect()).await;
            let error = gathered.answers[0].1.as_ref().unwrap_err();
            assert!(
                matches!(error, CallError::Service(_) | CallError::ServiceText(_)),
                "{error:?}"
            );
        }
    }
    server.stop().await.unwrap();
}

async fn a_dynamic_client_broadcasts(world: World) {
    let queue = unique("cache");
    let parts = ["one", "two"].map(Part::new);
    let servers = [
        serve(&world, &queue, &parts[0]).await,
        serve(&world, &queue, &parts[1]).await,
    ];
    let caller = world.broker().await;
    let mut description = CacheClient::SERVICE.description();
    description.queue = queue;
    let cache = DynamicClient::new(&caller, description).unwrap();
    let sent = cache
        .broadcast("count", json!({"prefix": "ab"}))
        .expect_workers(2)
        .send()
        .await;
    let gathered = soon("it ends", sent.unwrap().collect()).await;
    assert_eq!(gathered.answers.len(), 2);
    assert!(
        gathered
            .answers
            .iter()
            .all(|(_, answer)| *answer.as_ref().unwrap() == 2)
    );
    let sent = cache
        .broadcast_json("count", r#"["abc"]"#)
        .expect_workers(2)
        .send()
        .await;
    let gathered = soon("it ends", sent.unwrap().collect()).await;
    assert!(
        gathered
            .answers
            .iter()
            .all(|(_, answer)| answer.as_ref().unwrap() == "3")
    );
    soon("it is confirmed", cache.call("clear", ())).await.unwrap();
    for (wrong, kind) in [
        (
            cache.call("count", json!(["a"])).await.unwrap_err(),
            MethodKind::Broadcasting,
        ),
        (
            cache.broadcast("get", json!(["a"])).send().await.unwrap_err(),
            MethodKind::Unary,
        ),
        (
            cache.broadcast("clear", ()).send().await.unwrap_err(),
            MethodKind::Unary,
        ),
    ] {
        assert!(
            matches!(&wrong, CallError::WrongKind { kind: right, .. } if *right == kind),
            "{wrong:?}"
        );
    }
    for (server, part) in servers.into_iter().zip(&parts) {
        server.stop().await.unwrap();
        assert_eq!(part.runs(), 3);
    }
}

async fn broadcasts_are_counted(world: World) {
    let queue = unique("cache");
    let part = Part::new("fails");
    let server = serve(&world, &queue, &part).await;
    let caller = world.broker().await;
    let cache = client(&caller, &queue);
    for _ in 0..2 {
        let sent = cache.reload("disk").expect_workers(1).send().await;
        assert_eq!(soon("it ends", sent.unwrap().collect()).await.missing, Some(0));
    }
    let stats = rpc_runtime::discovery::WorkerClient::new(&caller, &queue)
        .stats()
        .await
        .unwrap();
    let reload = stats.method("Cache", "reload").unwrap();
    assert_eq!((reload.calls, reload.errors), (2, 2));
    server.stop().await.unwrap();
}

async fn a_broadcast_that_waits_for_a_server_reaches_it(world: World) {
    let queue = unique("cache");
    let caller = world.broker().await;
    let cache = CacheClient::builder(&caller)
        .queue(&queue)
        .wait_for_server(true)
        .build();
    let patient = tokio::spawn(async move {
        let gather = cache.count("a").expect_workers(1).send().await.unwrap();
        gather.collect().await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let part = Part::new("late");
    let server = serve(&world, &queue, &part).await;
    let gathered = soon("it ends", patient).await.unwrap();
    assert_eq!((gathered.missing, part.runs()), (Some(0), 1));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_in_process_gathers_from_one_worker() {
    let cache = CacheClient::in_process(Part::new("fails"));
    let mut answers = cache.count("ab").send().await.unwrap();
    let (worker, answer) = answers.next().await.unwrap();
    assert_eq!((worker.pid, answer.unwrap()), (std::process::id(), 2));
    assert!(answers.next().await.is_none());
    let gathered = cache
        .reload("disk")
        .expect_workers(2)
        .send()
        .await
        .unwrap()
        .collect()
        .await;
    assert!(matches!(gathered.answers[0].1, Err(CallError::Service(_))));
    assert_eq!(gathered.missing, Some(1));
    let cache = CacheClient::in_process(Part::new("panics"));
    let gathered = cache.reload("disk").send().await.unwrap().collect().await;
    assert!(matches!(gathered.answers[0].1, Err(CallError::Fault(_))));
    cache.clear().await.unwrap();
    let stuck = CacheClient::in_process(Part::behind("stuck", Gate::closed()));
    let sent = stuck
        .count("a")
        .expect_workers(1)
        .limit(Duration::from_millis(20))
        .send()
        .await;
    let gathered = sent.unwrap().collect().await;
    assert!(gathered.answers.is_empty() && matches!(gathered.end, GatherEnd::Limit));
    // As with a broker, it is not sent after its limit, and nobody is waited for.
    let late = stuck.count("a").limit(Duration::ZERO).send().await;
    assert!(
        matches!(
            late,
            Err(CallError::TimedOut {
                executed: Executed::No,
                ..
            })
        ),
        "{late:?}"
    );
    let sent = cache.reload("disk").expect_workers(0).send().await;
    let gathered = sent.unwrap().collect().await;
    assert!(gathered.answers.is_empty() && matches!(gathered.end, GatherEnd::Expected));
}

#[tokio::test]
async fn a_worker_is_reached_again_after_a_lost_connection() {
    let queue = unique("cache");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let part = Part::new("one");
    let server = serve_with(&Broker::connect(proxy.url()).await.unwrap(), &queue, &part).await;
    let cache = client(&World::RabbitMq.broker().await, &queue);
    let gathered = cache
        .count("a")
        .expect_workers(1)
        .send()
        .await
        .unwrap()
        .collect()
        .await;
    let id = gathered.answers[0].0.id.clone();
    for connections in [
        Target::Named("rpc consume"),
        Target::Named("rpc publish"),
        Target::All,
    ] {
        assert!(proxy.reset(connections).await > 0);
        until("it answers again", SOON, async || {
            let limit = Duration::from_millis(500);
            let Ok(gather) = cache.count("a").expect_workers(1).limit(limit).send().await else {
                return Ok(false);
            };
            let gathered = gather.collect().await;
            Ok(gathered.answers.iter().any(|(worker, _)| worker.id == id))
        })
        .await
        .unwrap();
    }
    server.stop().await.unwrap();
}

/// Binds a queue to the exchange that refuses all messages, so that the broker does not confirm
/// them.
async fn bind_full_queue(peer: &RawPeer, key: &str) {
    let full = unique("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let channel = peer.channel();
    channel
        .queue_declare(full.as_str().into(), options, arguments)
        .await
        .unwrap();
    channel
        .queue_bind(
            full.as_str().into(),
            "rpc.control".into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_worker_that_cannot_take_a_request_hides_no_answer_of_others() {
    let queue = unique("cache");
    let part = Part::new("one");
    let server = serve(&World::RabbitMq, &queue, &part).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    bind_full_queue(&peer, &queue).await;
    let cache = client(&World::RabbitMq.broker().await, &queue);
    let sent = cache.count("ab").expect_workers(1).send().await;
    let gathered = soon("it answers", sent.unwrap().collect()).await;
    assert!(!gathered.is_confirmed);
    assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 2);
    let refused = soon("it fails", cache.clear()).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused { .. }), "{refused:?}");
    assert_eq!(refused.executed(), Executed::Maybe);
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 2);
}

#[tokio::test]
async fn a_lost_confirm_hides_no_answer() {
    let queue = unique("cache");
    let part = Part::new("one");
    let server = serve(&World::RabbitMq, &queue, &part).await;
    let proxy = Proxy::start(shared().await).await.unwrap();
    let cache = client(&Broker::connect(proxy.url()).await.unwrap(), &queue);
    cache.clear().await.unwrap();
    // `basic.ack`
    let confirm = Sight::to_broker("count").then_from_broker([0, 60, 0, 80]);
    let cut = proxy.cut_before(Target::Named("rpc publish"), confirm);
    let sent = soon("it is sent", cache.count("ab").expect_workers(1).send()).await;
    cut.happened(SOON).await.unwrap();
    let gathered = soon("it answers", sent.unwrap().collect()).await;
    assert!(!gathered.is_confirmed);
    assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 2);
    server.stop().await.unwrap();
    // It was not sent again.
    assert_eq!(part.runs(), 2);
}

#[tokio::test]
async fn running_broadcasts_survive_a_panic_of_the_task_that_receives_them() {
    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("one", gate.clone());
    let server = serve(&World::RabbitMq, &queue, &part).await;
    let cache = client(&World::RabbitMq.broker().await, &queue);
    let running = cache.count("a").expect_workers(1).send().await.unwrap();
    gate.began(1).await;
    rpc_runtime::__panics::panic_next("control");
    // Wakes the task.
    until("it panics and recovers", SOON, async || {
        let limit = Duration::from_millis(500);
        let sent = cache.observe().expect_workers(1).limit(limit).send().await;
        let answered = match sent {
            Ok(gather) => gather.collect().await.missing == Some(0),
            Err(_) => false,
        };
        Ok(answered && !rpc_runtime::__panics::has_pending())
    })
    .await
    .unwrap();
    gate.let_all_go();
    assert_eq!(soon("it answers", running.collect()).await.missing, Some(0));
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 1);
}
