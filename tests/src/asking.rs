//! Asks the broker and the workers until they answer as a test expects.

use std::time::Duration;

use rpc_runtime::Broker;
use rpc_runtime::describe::{Worker, WorkerDescription};

use crate::gate::SOON;
use crate::until;

/// How long a discovery waits for the next answer. A worker that is slower is asked again.
const WINDOW: Duration = Duration::from_millis(50);

/// Waits until discovery finds the wanted worker on this queue. The worker then receives broadcasts
/// and cancellations, too.
///
/// [`start`](rpc_runtime::Server::start) is no substitute: it waits only a second for the worker's
/// subscription to these messages.
///
/// # Panics
///
/// Panics if there is no such worker within [`SOON`].
pub async fn until_found(seeker: &Broker, queue: &str, is_wanted: impl Fn(&Worker) -> bool) {
    let is_it = |found: &WorkerDescription| {
        found.queues.iter().any(|served| served.queue == queue) && is_wanted(&found.worker)
    };
    until("the worker is found", SOON, async || {
        let found = seeker.discover().window(WINDOW).services().await;
        Ok(found.is_ok_and(|found| found.workers.iter().any(is_it)))
    })
    .await
    .unwrap();
}

/// Returns how many messages are ready in a queue that exists. Asks again if a busy broker does not
/// answer in time.
///
/// # Panics
///
/// Panics if the broker does not know the queue within [`SOON`].
pub async fn depth(broker: &Broker, queue: &str) -> u32 {
    let mut messages = None;
    until(&format!("the depth of {queue} is known"), SOON, async || {
        messages = broker.queue_depth(queue).await.map(|depth| depth.messages);
        Ok(messages.is_some())
    })
    .await
    .unwrap();
    messages.expect("the condition holds")
}
