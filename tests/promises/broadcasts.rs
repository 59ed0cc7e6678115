//! A broadcast reaches every worker of its queue, and its caller learns what each of them answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::bail;
use futures_util::future::select_all;
use lapin::options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, message::Delivery};
use rpc_runtime::describe::Worker;
use rpc_runtime::middleware::{Authorize, Idempotency, InMemoryStore};
use rpc_runtime::{
    Broker, BrokerError, CallError, Codec, Context, DynamicClient, Executed, FaultCode, GatherEnd, Gathered,
    ReplyQueue, RequestQueue, RunningServer, Server, ServerError, ServiceClient, ServiceDescriptor, Status,
    service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::log::Log;
use rpc_tests::proxy::{Direction, Proxy, Sight, Target};
use rpc_tests::rabbit::{Node, Permissions, Vhost, shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::stranger::{Properties, Property, Stranger};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::Level;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NoSource(String);

#[service]
trait Cache {
    async fn get(&self, key: &str) -> String;
    #[rpc(broadcast)]
    async fn count(&self, prefix: &str) -> usize;
    #[rpc(broadcast)]
    async fn reload(&self, from: &str) -> Result<String, NoSource>;
    #[rpc(broadcast)]
    async fn observe(&self, #[rpc(context)] context: &Context) -> (String, bool);
    #[rpc(broadcast, oneway)]
    async fn clear(&self);
}

on_both_brokers! {
    every_worker_answers_with_its_identity,
    the_failure_of_a_worker_hides_no_other,
    a_broadcast_without_workers_fails_at_once,
    gathering_ends_with_the_last_expected_worker,
    a_worker_that_does_not_answer_is_counted,
    gathering_ends_if_no_further_worker_answers,
    a_one_way_broadcast_runs_on_every_worker,
    a_busy_worker_takes_part,
    a_stopping_worker_ends_its_broadcasts,
    too_many_broadcasts_are_refused_and_hide_no_worker,
    layers_decide_about_broadcasts,
    a_broadcast_carries_headers_and_its_deadline,
    a_queue_refuses_broadcasts_and_the_control_exchange_refuses_calls,
    broadcasts_work_with_every_codec_and_reply_queue,
    a_dynamic_client_broadcasts,
    broadcasts_are_counted,
    a_broadcast_that_waits_for_a_server_reaches_it,
    a_broadcast_that_waits_in_vain_did_not_run,
    a_closed_handle_lets_its_broadcasts_end,
    answers_keep_their_connection_open,
    gathering_ends_although_nobody_reads,
    a_quiet_window_may_last_forever,
    what_cannot_run_does_not_wait_for_its_turn,
    stored_outcomes_keep_no_worker_from_running_a_broadcast,
}

/// A worker's part of a cache.
#[derive(Clone)]
struct Part {
    name: &'static str,
    gate: Gate,
    runs: Arc<AtomicUsize>,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Self::behind(name, Gate::open())
    }

    fn behind(name: &'static str, gate: Gate) -> Self {
        let runs = Arc::default();
        Self { name, gate, runs }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    async fn run(&self) -> usize {
        self.gate.pass().await;
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Cache for Part {
    async fn get(&self, key: &str) -> String {
        self.run().await;
        key.to_owned()
    }

    async fn count(&self, prefix: &str) -> usize {
        self.run().await;
        prefix.len()
    }

    async fn reload(&self, from: &str) -> Result<String, NoSource> {
        self.run().await;
        match self.name {
            "fails" => Err(NoSource(from.to_owned())),
            "panics" => panic!("injected by the test"),
            name => Ok(name.to_owned()),
        }
    }

    async fn observe(&self, context: &Context) -> (String, bool) {
        let tenant = context.headers().get("tenant").unwrap_or_default().to_owned();
        (tenant, context.deadline().is_some())
    }

    async fn clear(&self) {
        self.run().await;
    }
}

/// Starts a worker with a handle of its own.
async fn serve(world: &World, queue: &str, part: &Part) -> RunningServer {
    serve_with(&world.broker().await, queue, part).await
}

async fn serve_with(broker: &Broker, queue: &str, part: &Part) -> RunningServer {
    let server = Server::new(broker).worker_name(part.name);
    let server = server.serve_on(RequestQueue::new(queue), CacheServer::new(part.clone()));
    soon("it starts", server.start()).await.unwrap()
}

fn client(broker: &Broker, queue: &str) -> CacheClient {
    CacheClient::builder(broker).queue(queue).build()
}

/// The answers by the name of the worker.
fn by_name<T, E>(gathered: Gathered<T, E>) -> Vec<(String, Result<T, CallError<E>>)> {
    let named = |(worker, answer): (Worker, _)| (worker.name.unwrap_or_default(), answer);
    let mut answers: Vec<_> = gathered.answers.into_iter().map(named).collect();
    answers.sort_by(|(one, _), (other, _)| one.cmp(other));
    answers
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
    let gather = client(&caller, &queue).count("users/").send().await.unwrap();
    let gathered = soon("it ends", gather.collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Quiet), "{:?}", gathered.end);
    assert_eq!(gathered.missing, None);
    let found = caller.discover().workers().await.unwrap();
    for (worker, answer) in &gathered.answers {
        assert_eq!(*answer.as_ref().unwrap(), 6);
        assert_eq!(worker.pid, std::process::id());
        // The same identity by which discovery finds it.
        assert!(
            found
                .workers
                .iter()
                .any(|other| other.id == worker.id && other.name == worker.name)
        );
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

async fn gathering_ends_with_the_last_expected_worker(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let (quick, slow) = (Part::new("quick"), Part::behind("slow", gate.clone()));
    let servers = [
        serve(&world, &queue, &quick).await,
        serve(&world, &queue, &slow).await,
    ];
    let cache = client(&world.broker().await, &queue);
    let sent = cache.count("a").expect_workers(2).limit(SOON * 10).send().await;
    let mut answers = sent.unwrap();
    let (worker, _) = soon("the quick one answers", answers.next()).await.unwrap();
    assert_eq!(worker.name.as_deref(), Some("quick"));
    assert_eq!((answers.answered(), answers.missing()), (1, Some(1)));
    assert!(answers.end().is_none());
    // Longer than the quiet window, which does not apply.
    tokio::time::sleep(Duration::from_millis(700)).await;
    gate.let_all_go();
    let (worker, _) = soon("the slow one answers", answers.next()).await.unwrap();
    assert_eq!(worker.name.as_deref(), Some("slow"));
    assert!(soon("it ends", answers.next()).await.is_none());
    assert!(matches!(answers.end(), Some(GatherEnd::Expected)));
    // It stays at its end.
    assert!(soon("it ends", answers.next()).await.is_none());
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn a_worker_that_does_not_answer_is_counted(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let (quick, slow) = (Part::new("quick"), Part::behind("slow", gate.clone()));
    let servers = [
        serve(&world, &queue, &quick).await,
        serve(&world, &queue, &slow).await,
    ];
    let cache = client(&world.broker().await, &queue);
    let limit = Duration::from_millis(500);
    let sent = cache.count("a").expect_workers(3).limit(limit).send().await;
    let gathered = soon("it ends", sent.unwrap().collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Limit), "{:?}", gathered.end);
    assert_eq!((gathered.answers.len(), gathered.missing), (1, Some(2)));
    // Its answer comes too late, and disturbs no later broadcast.
    gate.let_all_go();
    let sent = cache.count("ab").expect_workers(2).send().await;
    let gathered = soon("it ends", sent.unwrap().collect()).await;
    assert_eq!(gathered.missing, Some(0));
    for (_, answer) in gathered.answers {
        assert_eq!(answer.unwrap(), 2);
    }
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn gathering_ends_if_no_further_worker_answers(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let (quick, slow) = (Part::new("quick"), Part::behind("slow", gate.clone()));
    let servers = [
        serve(&world, &queue, &quick).await,
        serve(&world, &queue, &slow).await,
    ];
    let cache = client(&world.broker().await, &queue);
    let window = Duration::from_millis(300);
    let sent = cache
        .count("a")
        .expect_workers(2)
        .quiet_for(window)
        .limit(SOON * 10)
        .send();
    let gathered = soon("it ends", sent.await.unwrap().collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Quiet), "{:?}", gathered.end);
    assert_eq!((gathered.answers.len(), gathered.missing), (1, Some(1)));
    gate.let_all_go();
    for server in servers {
        server.stop().await.unwrap();
    }
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
    let found = soon("it is found", caller.discover().workers()).await.unwrap();
    assert!(
        found
            .workers
            .iter()
            .any(|worker| worker.name.as_deref() == Some("full"))
    );
    gate.let_all_go();
    for gather in gathers {
        let gathered = soon("it answers", gather.collect()).await;
        assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 1);
    }
    assert_eq!(gate.most_inside(), RUNNING);
    server.stop().await.unwrap();
}

async fn layers_decide_about_broadcasts(world: World) {
    let queue = unique("cache");
    let part = Part::new("guarded");
    let server = Server::new(&world.broker().await)
        .layer(Authorize::new().allow("guest", ["Cache.count"]))
        .serve_on(RequestQueue::new(&queue), CacheServer::new(part.clone()));
    let server = server.start().await.unwrap();
    let caller = world.broker_with(Broker::builder().send_user_id(true)).await;
    let cache = client(&caller, &queue);
    let sent = cache.count("a").expect_workers(1).send().await;
    let gathered = soon("it answers", sent.unwrap().collect()).await;
    assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), 1);
    assert_eq!(gathered.answers[0].0.pid, std::process::id());
    let sent = cache.reload("disk").expect_workers(1).send().await;
    let refused = soon("it answers", sent.unwrap().collect()).await;
    let (worker, Err(CallError::Fault(fault))) = &refused.answers[0] else {
        panic!("{refused:?}");
    };
    assert_eq!(fault.code, FaultCode::Unauthorized);
    // It learns nothing else about the worker.
    assert_eq!(worker.id, gathered.answers[0].0.id);
    assert_eq!((worker.host.as_str(), worker.pid), ("", 0));
    cache.clear().await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 1);
}

async fn a_broadcast_carries_headers_and_its_deadline(world: World) {
    let queue = unique("cache");
    let server = serve(&world, &queue, &Part::new("one")).await;
    let cache = client(&world.broker().await, &queue);
    let sent = cache
        .observe()
        .header("tenant", "a")
        .expect_workers(1)
        .send()
        .await;
    let gathered = soon("it answers", sent.unwrap().collect()).await;
    assert_eq!(*gathered.answers[0].1.as_ref().unwrap(), ("a".to_owned(), true));
    let reserved = cache.observe().header("rpc-worker", "me").send().await;
    assert!(matches!(reserved, Err(CallError::Invalid { .. })));
    let long = "x".repeat(1024 * 1024 + 1);
    let long = cache.count(&long).send().await;
    assert!(matches!(long, Err(CallError::TooLarge { .. })));
    server.stop().await.unwrap();
}

/// A dynamic client whose description claims that methods are, or are not, broadcasts.
fn dynamic(broker: &Broker, queue: &str, is_broadcast: impl Fn(&str) -> bool) -> DynamicClient {
    let service: &ServiceDescriptor = CacheClient::SERVICE;
    let mut description = service.description();
    for method in &mut description.methods {
        method.is_broadcast = is_broadcast(&method.name);
    }
    queue.clone_into(&mut description.queue);
    DynamicClient::new(broker, description).unwrap()
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
    for (wrong, is_broadcast) in [
        (cache.call("count", json!(["a"])).await.unwrap_err(), true),
        (
            cache.broadcast("get", json!(["a"])).send().await.unwrap_err(),
            false,
        ),
        (cache.broadcast("clear", ()).send().await.unwrap_err(), false),
    ] {
        assert!(
            matches!(&wrong, CallError::WrongKind { is_broadcast: is, .. } if *is == is_broadcast),
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

async fn a_broadcast_that_waits_in_vain_did_not_run(world: World) {
    let cache = CacheClient::builder(&world.broker().await)
        .queue(unique("cache"))
        .wait_for_server(true)
        .timeout(Duration::from_millis(300))
        .build();
    let did_not_run = |failed: CallError| match failed {
        CallError::TimedOut { executed, limit, .. } => {
            assert_eq!(limit, Duration::from_millis(300));
            // `Maybe` if the limit passes between sending the broadcast again and the broker's answer.
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

async fn a_closed_handle_lets_its_broadcasts_end(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("closed", gate.clone());
    let broker = world.broker().await;
    // No queue for batches, whose consumer would end at once and stop the server.
    let server = Server::new(&broker)
        .batching(false)
        .serve_on(RequestQueue::new(&queue), CacheServer::new(part.clone()));
    let mut server = server.start().await.unwrap();
    let cache = client(&world.broker().await, &queue);
    let call = tokio::spawn(cache.get("a"));
    cache.clear().await.unwrap();
    gate.began(2).await;
    let ended = tokio::spawn(async move { server.ended().await });
    broker.close().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!ended.is_finished());
    gate.let_all_go();
    soon("it ends", ended).await.unwrap().unwrap_err();
    assert_eq!(part.runs(), 2);
    // Its answer is lost.
    call.abort();
}

async fn answers_keep_their_connection_open(world: World) {
    let queue = unique("cache");
    let gate = Gate::closed();
    let server = serve(&world, &queue, &Part::behind("slow", gate.clone())).await;
    let gather = {
        let caller = world.broker().await;
        let cache = client(&caller, &queue);
        cache.count("ab").expect_workers(1).send().await.unwrap()
    };
    gate.began(1).await;
    gate.let_all_go();
    let gathered = soon("it answers", gather.collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Expected), "{:?}", gathered.end);
    assert!(gathered.is_confirmed);
    server.stop().await.unwrap();
}

async fn gathering_ends_although_nobody_reads(world: World) {
    let queue = unique("cache");
    let server = serve(&world, &queue, &Part::new("one")).await;
    let cache = client(&world.broker().await, &queue);
    let limit = Duration::from_millis(300);
    let sent = cache.count("a").expect_workers(2).limit(limit).send().await;
    let mut answers = sent.unwrap();
    tokio::time::sleep(2 * limit).await;
    assert!(answers.next().await.is_none());
    assert!(
        matches!(answers.end(), Some(GatherEnd::Limit)),
        "{:?}",
        answers.end()
    );
    server.stop().await.unwrap();
}

async fn a_quiet_window_may_last_forever(world: World) {
    let queue = unique("cache");
    let server = serve(&world, &queue, &Part::new("one")).await;
    let cache = client(&world.broker().await, &queue);
    let sent = cache
        .count("a")
        .quiet_for(Duration::MAX)
        .limit(Duration::from_millis(500))
        .send()
        .await;
    let gathered = soon("it ends", sent.unwrap().collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Limit), "{:?}", gathered.end);
    assert_eq!(gathered.answers.len(), 1);
    server.stop().await.unwrap();
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

async fn stored_outcomes_keep_no_worker_from_running_a_broadcast(world: World) {
    let queue = unique("cache");
    let layer = Idempotency::new(InMemoryStore::new(100, SOON));
    let parts = ["one", "two"].map(Part::new);
    let mut servers = Vec::new();
    for part in &parts {
        let server = Server::new(&world.broker().await).layer(layer.clone());
        let server = server.serve_on(RequestQueue::new(&queue), CacheServer::new(part.clone()));
        servers.push(server.start().await.unwrap());
    }
    let cache = client(&world.broker().await, &queue);
    let sent = cache.count("a").expect_workers(2).send().await;
    assert_eq!(soon("it ends", sent.unwrap().collect()).await.missing, Some(0));
    assert!(parts.iter().all(|part| part.runs() == 1));
    for server in servers {
        server.stop().await.unwrap();
    }
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

#[tokio::test]
async fn a_caller_that_loses_its_connection_learns_that_answers_are_lost() {
    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("slow", gate.clone());
    let server = serve(&World::RabbitMq, &queue, &part).await;
    let proxy = Proxy::start(shared().await).await.unwrap();
    let cache = client(&Broker::connect(proxy.url()).await.unwrap(), &queue);
    let gather = cache.count("a").expect_workers(1).send().await.unwrap();
    gate.began(1).await;
    proxy.reset(Target::All).await;
    let gathered = soon("it ends", gather.collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Lost(_)), "{:?}", gathered.end);
    assert_eq!(gathered.missing, Some(1));
    gate.let_all_go();
    server.stop().await.unwrap();
    // It ran once: a broadcast is not repeated.
    assert_eq!(part.runs(), 1);
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
    let (limit, pause) = (Duration::from_secs(5), Duration::from_secs(2));
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

/// How many queues for answers there are, and how many deliveries are not acknowledged.
async fn answer_queues(vhost: &Vhost) -> Vec<String> {
    let queues = vhost.all_queues(&["name", "messages_unacknowledged"]).await;
    let unacknowledged = |queue: &String| {
        let (name, unacknowledged) = queue.split_once('\t')?;
        name.starts_with("amq.gen-").then(|| unacknowledged.to_owned())
    };
    queues.iter().filter_map(unacknowledged).collect()
}

#[tokio::test]
async fn answers_that_nobody_reads_stay_at_the_broker_and_not_for_long() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = serve_with(&broker, "cache", &Part::new("one")).await;
    let mut foreign = ForeignWorker::of(&vhost.url(), "cache").await;
    let foreign_queues = answer_queues(&vhost).await.len();
    let cache = client(&broker, "cache");
    let limit = Duration::from_secs(15);
    let mut unread = cache.count("a").limit(limit).send().await.unwrap();
    let request = foreign.request().await;
    let reply_to = request.properties.reply_to().as_ref().unwrap().as_str();
    for _ in 0..200 {
        let reply = BasicProperties::default()
            .with_correlation_id(request.properties.correlation_id().clone().unwrap());
        foreign.peer.publish(reply_to, reply, b"7").await.unwrap();
    }
    until("the prefetch is reached", SOON, async || {
        Ok(answer_queues(&vhost).await.contains(&"64".to_owned()))
    })
    .await
    .unwrap();
    until("the queue is deleted at the limit", SOON, async || {
        Ok(answer_queues(&vhost).await.len() == foreign_queues)
    })
    .await
    .unwrap();
    assert!(unread.next().await.is_none());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_queue_for_answers_ends_with_the_last_expected_one() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = serve_with(&broker, "cache", &Part::new("one")).await;
    let cache = client(&broker, "cache");
    let mut kept = cache.count("a").expect_workers(1).send().await.unwrap();
    assert!(soon("it answers", kept.next()).await.is_some());
    let none = cache.count("a").expect_workers(0).send().await.unwrap();
    until("the queues are deleted", SOON, async || {
        Ok(answer_queues(&vhost).await.is_empty())
    })
    .await
    .unwrap();
    assert!(matches!(none.end(), Some(GatherEnd::Expected)));
    drop((kept, none));
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
    // Closing the channel of a request queue takes up to five seconds more.
    let limit = drain + Duration::from_secs(7);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    hole.heal().await;
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

#[tokio::test]
async fn a_malformed_broadcast_is_answered() {
    let queue = unique("cache");
    let part = Part::new("one");
    let server = serve(&World::RabbitMq, &queue, &part).await;
    let mut stranger = Stranger::connect(shared().await).await.unwrap();
    let replies = stranger.declare_exclusive().await.unwrap();
    let request = Properties::default()
        .text(Property::ReplyTo, &replies)
        .text(Property::CorrelationId, "7")
        .text(Property::Type, "count");
    let malformed = request.clone().text(Property::MessageId, b"\xff");
    let large = vec![b'x'; 2 * 1024 * 1024];
    for (properties, body, code) in [
        (&malformed, &b"{}"[..], "bad_request"),
        (&request, &large[..], "too_large"),
    ] {
        stranger
            .publish_to("rpc.control", queue.as_bytes(), properties, body)
            .await
            .unwrap();
        let (_, fault) = stranger.get(&replies).await.unwrap();
        let fault = String::from_utf8(fault).unwrap();
        assert!(fault.contains(code), "{fault}");
    }
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 0);
}

/// A worker that takes part in broadcasts, and no more; see the table in `docs/production.md`.
const WORKER: Permissions<'_> = Permissions {
    configure: "^(cache([.]batch)?$|rpc[.]control([.]|$))",
    write: "^(amq[.]default$|rpc[.]control[.])",
    read: "^(cache([.]batch)?$|rpc[.]control([.]|$))",
};

/// A worker that cannot use the control exchange.
const DEAF_WORKER: Permissions<'_> = Permissions {
    configure: "^cache([.]batch)?$",
    write: "^amq[.]default$",
    read: "^cache([.]batch)?$",
};

/// A caller of broadcasts, and no more.
const CALLER: Permissions<'_> = Permissions {
    configure: "^amq[.]gen-",
    write: "^rpc[.]control$",
    read: "^amq[.]gen-",
};

/// A caller of everything else.
const OTHER_CALLER: Permissions<'_> = Permissions {
    configure: "^rpc[.]reply[.]",
    write: "^amq[.]default$",
    read: "^rpc[.]reply[.]",
};

async fn handle_of(vhost: &Vhost, may: Permissions<'_>) -> Broker {
    Broker::connect(&vhost.url_of_user(may).await).await.unwrap()
}

#[tokio::test]
async fn the_least_permissions_are_enough_to_send_and_to_answer_broadcasts() {
    let vhost = Vhost::new().await;
    let part = Part::new("permitted");
    let server = serve_with(&handle_of(&vhost, WORKER).await, "cache", &part).await;
    let cache = client(&handle_of(&vhost, CALLER).await, "cache");
    let gathered = cache
        .count("a")
        .expect_workers(1)
        .send()
        .await
        .unwrap()
        .collect()
        .await;
    assert_eq!(gathered.missing, Some(0));
    soon("it is confirmed", cache.clear()).await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 2);
}

#[tokio::test]
async fn without_permissions_everything_but_broadcasts_works() {
    let (log, _guard) = Log::start(Level::INFO);
    let vhost = Vhost::new().await;
    let deaf = serve_with(&handle_of(&vhost, DEAF_WORKER).await, "cache", &Part::new("deaf")).await;
    let lines = log.lines_about("serving without broadcasts and discovery");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let cache = client(&handle_of(&vhost, OTHER_CALLER).await, "cache");
    assert_eq!(soon("it serves", cache.get("a")).await.unwrap(), "a");
    let refused = soon("it fails", cache.count("a").send()).await.unwrap_err();
    assert!(
        matches!(
            &refused,
            CallError::Broker {
                executed: Executed::No,
                ..
            }
        ),
        "{refused:?}"
    );
    // A worker that nobody can reach does not count as one.
    let cache = client(&handle_of(&vhost, CALLER).await, "cache");
    let none = soon("it fails", cache.count("a").send()).await.unwrap_err();
    assert!(matches!(none, CallError::NoWorkers { .. }), "{none:?}");
    let user_without_exchange = client(&handle_of(&vhost, OTHER_CALLER).await, "cache");
    let refused = soon("it fails", user_without_exchange.clear()).await.unwrap_err();
    let CallError::Broker { source, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(
        matches!(
            source,
            BrokerError::Exchange {
                action: "publish to",
                ..
            }
        ),
        "{source:?}"
    );
    deaf.stop().await.unwrap();
}

/// A worker without this library, with a queue of its own at the control exchange.
struct ForeignWorker {
    peer: RawPeer,
    requests: lapin::Consumer,
}

impl ForeignWorker {
    async fn of(url: &str, key: &str) -> Self {
        let peer = RawPeer::connect(url).await.unwrap();
        let queue = peer.declare_exclusive().await.unwrap();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        peer.channel()
            .queue_bind(
                queue.as_str().into(),
                "rpc.control".into(),
                key.into(),
                options,
                arguments,
            )
            .await
            .unwrap();
        let requests = peer.consume(&queue).await.unwrap();
        Self { peer, requests }
    }

    async fn request(&mut self) -> Delivery {
        next(&mut self.requests, SOON).await.unwrap().expect("a request")
    }
}

#[tokio::test]
async fn foreign_and_repeated_answers_are_ignored() {
    let url = shared().await;
    let queue = unique("cache");
    let server = serve(&World::RabbitMq, &queue, &Part::new("honest")).await;
    let mut foreign = ForeignWorker::of(url, &queue).await;
    let cache = CacheClient::builder(&World::RabbitMq.broker().await)
        .queue(&queue)
        .codec(Codec::Json)
        .build();
    let sent = cache
        .count("a")
        .expect_workers(3)
        .limit(Duration::from_secs(1))
        .send()
        .await;
    let gather = sent.unwrap();
    let request = foreign.request().await;
    let properties = &request.properties;
    assert!(properties.expiration().is_some());
    let reply_to = properties.reply_to().as_ref().unwrap().as_str().to_owned();
    let id = properties.correlation_id().as_ref().unwrap().clone();
    let reply = |id: &str, worker: &str| {
        let mut headers = FieldTable::default();
        let worker = AMQPValue::LongString(worker.into());
        headers.insert("rpc-worker".into(), worker);
        BasicProperties::default()
            .with_correlation_id(id.into())
            .with_content_type("application/json".into())
            .with_headers(headers)
    };
    for (id, worker) in [
        ("another", r#"{"id":"foreign"}"#),
        (
            id.as_str(),
            r#"{"id":"foreign","name":"stranger","shoe_size":43}"#,
        ),
        (id.as_str(), r#"{"id":"foreign"}"#),
    ] {
        foreign
            .peer
            .publish(&reply_to, reply(id, worker), b"7")
            .await
            .unwrap();
    }
    let gathered = soon("it ends", gather.collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Limit), "{:?}", gathered.end);
    assert_eq!(gathered.missing, Some(1));
    let answers = by_name(gathered);
    let answers: Vec<_> = answers
        .iter()
        .map(|(name, answer)| (name.as_str(), *answer.as_ref().unwrap()))
        .collect();
    assert_eq!(answers, [("honest", 1), ("stranger", 7)]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn foreign_control_messages_affect_no_worker() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let part = Part::new("one");
    let server = serve_with(&broker, "cache", &part).await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    peer.declare_durable("payments").await.unwrap();
    let reply_to = peer.declare_exclusive().await.unwrap();
    let queues = vhost.all_queues(&["name"]).await;
    let control = queues
        .iter()
        .find(|queue| queue.starts_with("rpc.control."))
        .unwrap();

    let request = |kind: &str, reply_to: &str| {
        BasicProperties::default()
            .with_type(kind.into())
            .with_content_type("application/json".into())
            .with_reply_to(reply_to.into())
    };
    // Not through the exchange.
    for kind in ["clear", "count", "rpc.ping"] {
        peer.publish(control, request(kind, &reply_to), br#"{"prefix":"a"}"#)
            .await
            .unwrap();
    }
    for properties in [
        request("get", &reply_to),
        request("count", &reply_to).with_content_type("image/png".into()),
        request("count", "payments"),
        request("", &reply_to),
        request("rpc.batch", &reply_to),
        BasicProperties::default(),
    ] {
        for body in [&b"\xc1"[..], &vec![0xdd; 2 * 1024 * 1024]] {
            let publishing = peer.channel().basic_publish(
                "rpc.control".into(),
                "cache".into(),
                BasicPublishOptions::default(),
                body,
                properties.clone(),
            );
            assert!(publishing.await.unwrap().await.unwrap().is_ack());
        }
    }
    let cache = client(&broker, "cache");
    until("it answers", SOON, async || {
        let gather = cache
            .count("abc")
            .expect_workers(1)
            .limit(Duration::from_secs(1))
            .send()
            .await?;
        Ok(gather.collect().await.missing == Some(0))
    })
    .await
    .unwrap();
    assert_eq!(peer.queue_depth("payments").await.unwrap(), Some(0));
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 1);
}
