//! Asks the broker for the depths of queues, and shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rpc_runtime::Broker;
use rpc_runtime::discovery::{QueueDepth, dead_queue, retry_queues};
use serde_json::{Value, json};

/// How many queues to ask about at once.
const CONCURRENCY: usize = 8;

/// The limit on asking about all queues.
const LIMIT: Duration = Duration::from_secs(5);

/// The depths of queues by name. A queue is missing if its depth is not known: it does not exist,
/// the user may not see it, or the broker did not answer in time.
pub(crate) type Depths = BTreeMap<String, QueueDepth>;

/// Asks for the depths of these queues, within [`LIMIT`].
pub(crate) async fn ask(broker: &Broker, queues: impl IntoIterator<Item = &str>) -> Depths {
    // Several services and workers may be on one queue.
    let queues: BTreeSet<_> = queues.into_iter().map(str::to_owned).collect();
    let asking = queues.into_iter().map(|queue| async move {
        let depth = broker.queue_depth(&queue).await;
        (queue, depth)
    });
    let mut answers = stream::iter(asking).buffer_unordered(CONCURRENCY);
    let mut depths = Depths::new();
    let collecting = async {
        while let Some((queue, depth)) = answers.next().await {
            depths.extend(depth.map(|depth| (queue, depth)));
        }
    };
    // The depths that arrived in time are shown.
    let _ = tokio::time::timeout(LIMIT, collecting).await;
    depths
}

/// Returns the cells with a queue's ready messages and consumers, or `-` if they are not known.
pub(crate) fn cells(depths: &Depths, queue: &str) -> [String; 2] {
    match depths.get(queue) {
        Some(depth) => [depth.messages.to_string(), depth.consumers.to_string()],
        None => ["-".to_owned(), "-".to_owned()],
    }
}

/// The names of the queues that jobs of a request queue move to: for dead letters, and for retries
/// and delays. Most of them may not exist.
pub(crate) fn job_queues(queue: &str) -> impl Iterator<Item = String> {
    std::iter::once(dead_queue(queue)).chain(retry_queues(queue))
}

/// The depths of the job queues of one request queue. A field is `None` if no depth that it needs
/// is known (see [`Depths`]), for instance because no worker has needed these queues yet.
pub(crate) struct JobDepths {
    /// The jobs that wait for a retry, for the time that their caller set, or for the dead-letter
    /// queue to take them, as far as is known.
    pub(crate) waiting: Option<u32>,
    /// The jobs that were given up.
    pub(crate) dead: Option<u32>,
}

impl JobDepths {
    pub(crate) fn of(depths: &Depths, queue: &str) -> Self {
        let messages = |queue: &str| depths.get(queue).map(|depth| depth.messages);
        Self {
            waiting: retry_queues(queue)
                .filter_map(|queue| messages(&queue))
                .reduce(u32::saturating_add),
            dead: messages(&dead_queue(queue)),
        }
    }

    /// Returns the cells with the waiting and the dead jobs, or `-` if they are not known.
    pub(crate) fn cells(&self) -> [String; 2] {
        [self.waiting, self.dead].map(|jobs| jobs.map_or_else(|| "-".to_owned(), |jobs| jobs.to_string()))
    }
}

/// Adds a queue's ready messages, as `depth`, and its `consumers` to a JSON object: `null` if they
/// are not known.
pub(crate) fn add_to_json(object: &mut Value, depths: &Depths, queue: &str) {
    let depth = depths.get(queue);
    object["depth"] = json!(depth.map(|depth| depth.messages));
    object["consumers"] = json!(depth.map(|depth| depth.consumers));
}
