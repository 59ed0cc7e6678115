//! Looks up the [depths](Depth) of queues, on channels that are kept for later lookups.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::channel::OpenChannel;
use super::errors::short;
use super::opener::{LOOKUP_LIMIT, Opener, declare_passively};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::Depth;

/// At most this many channels are kept for later lookups.
const MAX_CHANNELS: usize = 32;

/// The channels for lookups, one for each queue. The broker closes the channel if the queue is
/// missing, and answers no other request on it until the queue's node has answered.
#[derive(Debug, Default)]
pub(super) struct DepthLookup(Mutex<HashMap<ShortStr, Arc<OpenChannel>>>);

impl DepthLookup {
    /// Returns how many messages and consumers a queue has. Fails if the queue does not exist, or
    /// if its node does not answer in time.
    pub(super) async fn look_up(&self, opener: &Opener, queue: &ShortStr) -> Result<Depth, BrokerError> {
        let name = short(queue.as_str())?;
        // Taken out, so that two lookups never share a channel, and put back only after success.
        let kept = self.lock().remove(queue);
        let channel = match kept.filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => opener.channel().await?,
        };
        let asking = declare_passively(Arc::clone(&channel), name);
        let limit = opener.limit.min(LOOKUP_LIMIT);
        let found = channel.request(limit, "looking for a queue", asking).await?;
        self.keep(queue, channel);
        Ok(Depth {
            messages: found.message_count(),
            consumers: found.consumer_count(),
        })
    }

    fn keep(&self, queue: &ShortStr, channel: Arc<OpenChannel>) {
        let mut channels = self.lock();
        if channels.len() >= MAX_CHANNELS {
            // Some are of queues whose servers have stopped. The others are opened again if needed.
            channels.clear();
        }
        channels.insert(queue.clone(), channel);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ShortStr, Arc<OpenChannel>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
