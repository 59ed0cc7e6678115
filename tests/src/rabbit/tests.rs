//! The life of a node.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use tokio::time::sleep;

use super::*;
use crate::{
    raw::{RawPeer, next},
    until,
};

/// Returns the processes of the node in this folder. They inherit its variable.
fn processes_of(folder: &Path) -> Vec<String> {
    let mark = format!("RPC_TESTS_NODE={}", folder.display());
    let has_mark = |environment: &[u8]| {
        environment
            .split(|&byte| byte == 0)
            .any(|one| one == mark.as_bytes())
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|process| fs::read(process.path().join("environ")).is_ok_and(|it| has_mark(&it)))
        .map(|process| process.file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn node_answers_rabbitmqctl_and_leaves_nothing_behind() {
    let node = Node::start().await.unwrap();
    let folder = node.folder.clone();

    assert!(node.ctl(&["status"]).await.unwrap().contains(node.name()));
    let error = node.ctl(&["no_such_command"]).await.unwrap_err().to_string();
    assert!(error.starts_with("rabbitmqctl no_such_command failed"), "{error}");

    node.ctl(&["stop_app"]).await.unwrap();
    assert!(
        Connection::connect(node.url(), ConnectionProperties::default())
            .await
            .is_err()
    );
    node.ctl(&["start_app"]).await.unwrap();
    node.serves_clients().await.unwrap();

    // At least the node, its helpers and its epmd.
    assert!(processes_of(&folder).len() >= 3);
    node.stop().await.unwrap();
    assert_eq!(processes_of(&folder), [""; 0]);
    assert!(!folder.exists());
}

/// Not a test: [`node_goes_with_a_killed_process`] runs this in another process and kills it.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn holds_a_node() {
    let node = Node::start().await.unwrap();
    eprintln!("folder: {}", node.folder.display());
    sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn node_goes_with_a_killed_process() {
    let mut holder = process::Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "rabbit::tests::holds_a_node",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let folder = BufReader::new(holder.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("folder: ").map(PathBuf::from));
    // Kill it even if it has not printed that line: it must not outlive this test.
    holder.kill().unwrap();
    holder.wait().unwrap();
    let folder = folder.expect("the other process starts a node");

    until(
        "the watchdog has removed the node",
        Duration::from_secs(20),
        async || Ok(processes_of(&folder).is_empty() && !folder.exists()),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn failure_to_start_shows_the_log() {
    let error = Node::start_with("no_such_setting = 1").await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("no_such_setting"), "{error}");
    assert!(error.ends_with("it exited"), "{error}");
}

const SOON: Duration = Duration::from_secs(30);

/// Declares a durable queue of this type.
async fn declare(peer: &RawPeer, queue: &str, kind: &str) {
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    peer.channel()
        .queue_declare(queue.into(), options, arguments)
        .await
        .unwrap();
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

#[tokio::test]
async fn killed_node_comes_back_with_its_data() {
    let node = Node::start().await.unwrap();
    let folder = node.folder.clone();
    let peer = RawPeer::connect(node.url()).await.unwrap();
    declare(&peer, "durable", "classic").await;
    peer.publish("durable", persistent(), b"kept").await.unwrap();
    node.flush().await.unwrap();
    assert!(node.restart().await.is_err(), "it is running");

    for _ in 0..2 {
        node.kill().await.unwrap();
        assert!(node.kill().await.is_err(), "it is not running");
        let connected = Connection::connect(node.url(), ConnectionProperties::default()).await;
        assert!(connected.is_err());
        node.restart().await.unwrap();
        let peer = RawPeer::connect(node.url()).await.unwrap();
        assert_eq!(peer.queue_depth("durable").await.unwrap(), Some(1));
    }
    node.kill().await.unwrap();
    node.stop().await.unwrap();
    assert_eq!(processes_of(&folder), [""; 0]);
    assert!(!folder.exists());
}

#[tokio::test]
async fn quorum_queue_survives_its_leader() {
    let begin = Instant::now();
    let cluster = Cluster::start(3).await.unwrap();
    eprintln!("the cluster started within {:?}", begin.elapsed());
    let peer = RawPeer::connect(cluster.urls()[0]).await.unwrap();
    declare(&peer, "votes", "quorum").await;
    peer.publish("votes", persistent(), b"first").await.unwrap();
    assert_eq!(cluster.leader_of("nothing").await.unwrap(), None);
    let first = cluster.leader_of("votes").await.unwrap().expect("a leader");

    cluster.kill(first).await.unwrap();
    let mut second = None;
    until("another node leads", SOON, async || {
        second = cluster.leader_of("votes").await?;
        Ok(second.is_some())
    })
    .await
    .unwrap();
    assert_ne!(second, Some(first));

    let peer = RawPeer::connect(cluster.urls()[(first + 1) % 3]).await.unwrap();
    peer.publish("votes", persistent(), b"second").await.unwrap();
    cluster.restart(first).await.unwrap();
    let peer = RawPeer::connect(cluster.urls()[first]).await.unwrap();
    let mut consumer = peer.consume("votes").await.unwrap();
    for body in ["first", "second"] {
        let delivery = next(&mut consumer, SOON).await.unwrap().expect("a message");
        assert_eq!(delivery.data, body.as_bytes());
    }
    let folders: Vec<_> = cluster.nodes().iter().map(|node| node.folder.clone()).collect();
    cluster.stop().await.unwrap();
    for folder in folders {
        assert_eq!(processes_of(&folder), [""; 0]);
        assert!(!folder.exists());
    }
}
