//! Layers of workers, and what they see of a broadcast.

use rpc_runtime::middleware::{Authorize, Idempotency, InMemoryStore};
use rpc_runtime::{Broker, CallError, FaultCode, RequestQueue, Server};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::on_both_brokers;
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;

use super::{CacheServer, Part, client, serve};

on_both_brokers! {
    layers_decide_about_broadcasts,
    a_broadcast_carries_headers_and_its_deadline,
    stored_outcomes_keep_no_worker_from_running_a_broadcast,
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
