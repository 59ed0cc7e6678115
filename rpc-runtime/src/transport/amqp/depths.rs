//! Asks what is in queues, again and again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::types::FieldTable;

use super::channel::OpenChannel;
use super::opening::{FIND_LIMIT, Opening, passive};
use super::short;
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::Depth;

/// How many channels are kept for the next question.
const MOST: usize = 32;

/// The channels that questions about queues go through, one for each queue: the broker closes the
/// channel if there is no such queue, and answers nothing else on it while the node of the queue is
/// silent.
#[derive(Debug, Default)]
pub(super) struct Depths(Mutex<HashMap<ShortStr, Arc<OpenChannel>>>);

impl Depths {
    pub(super) async fn ask(&self, opening: &Opening, queue: &ShortStr) -> Result<Depth, BrokerError> {
        let name = short(queue.as_str())?;
        // If it is not answered well, nobody uses the channel again.
        let unused = self.lock().remove(queue);
        let channel = match unused.filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => opening.channel().await?,
        };
        let asked = Arc::clone(&channel);
        let asking = async move { asked.queue_declare(name, passive(), FieldTable::default()).await };
        let limit = opening.limit.min(FIND_LIMIT);
        let found = channel.ask(limit, "looking for a queue", asking).await?;
        self.keep(queue, channel);
        Ok(Depth {
            messages: found.message_count(),
            consumers: found.consumer_count(),
        })
    }

    fn keep(&self, queue: &ShortStr, channel: Arc<OpenChannel>) {
        let mut channels = self.lock();
        if channels.len() >= MOST {
            // Those of servers that have stopped are among them.
            channels.clear();
        }
        channels.insert(queue.clone(), channel);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ShortStr, Arc<OpenChannel>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
