//! When gathering ends, and what a caller knows then.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use rpc_runtime::{Broker, GatherEnd, RequestQueue, Server};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{Vhost, shared, unique};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};

use super::{CacheServer, ForeignWorker, Part, client, serve, serve_with};

on_both_brokers! {
    gathering_ends_with_the_last_expected_worker,
    a_worker_that_does_not_answer_is_counted,
    gathering_ends_if_no_further_worker_answers,
    a_closed_handle_lets_its_broadcasts_end,
    answers_keep_their_connection_open,
    gathering_ends_although_nobody_reads,
    a_quiet_window_may_last_forever,
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
    let limit = Duration::from_secs(3);
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
    let limit = Duration::from_secs(3);
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
        .limit(Duration::from_secs(3))
        .send()
        .await;
    let gathered = soon("it ends", sent.unwrap().collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Limit), "{:?}", gathered.end);
    assert_eq!(gathered.answers.len(), 1);
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

/// Each broadcast closes a channel, whose owners may drop it at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn broadcasts_that_end_cost_no_other_broadcast_its_answers() {
    let queue = unique("cache");
    let gate = Gate::closed();
    let part = Part::behind("slow", gate.clone());
    let server = serve(&World::RabbitMq, &queue, &part).await;
    let cache = client(&World::RabbitMq.broker().await, &queue);
    let waits = cache.count("a").expect_workers(1).limit(SOON * 10);
    let waits = waits.send().await.unwrap();
    gate.began(1).await;
    let others = (0..16).map(|_| {
        let cache = cache.clone();
        tokio::spawn(async move {
            for _ in 0..200 {
                let sent = cache.observe().expect_workers(1).limit(SOON).send().await;
                let gathered = sent.unwrap().collect().await;
                assert!(matches!(gathered.end, GatherEnd::Expected), "{:?}", gathered.end);
            }
        })
    });
    for other in join_all(others).await {
        other.unwrap();
    }
    gate.let_all_go();
    let gathered = soon("it ends", waits.collect()).await;
    assert!(matches!(gathered.end, GatherEnd::Expected), "{:?}", gathered.end);
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
