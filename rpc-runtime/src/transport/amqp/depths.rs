//! Asks what is in queues, again and again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::types::FieldTable;

use super::channel::OpenChannel;
use super::opening::{FIND_LIMIT, Opening, passive};
use super::short;
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::Depth;

/// The channel that questions about queues go through. It is opened for the first of them, and again
/// after one that the broker did not answer well: it closes the channel if there is no such queue.
#[derive(Debug, Default)]
pub(super) struct Depths(Mutex<Option<Arc<OpenChannel>>>);

impl Depths {
    pub(super) async fn ask(&self, opening: &Opening, queue: &ShortStr) -> Result<Depth, BrokerError> {
        let name = short(queue.as_str())?;
        let channel = self.channel(opening).await?;
        let asked = Arc::clone(&channel);
        let asking = async move { asked.queue_declare(name, passive(), FieldTable::default()).await };
        let found = channel.ask(FIND_LIMIT, "looking for a queue", asking).await;
        if found.is_err() {
            self.forget(&channel);
        }
        let found = found?;
        Ok(Depth {
            messages: found.message_count(),
            consumers: found.consumer_count(),
        })
    }

    async fn channel(&self, opening: &Opening) -> Result<Arc<OpenChannel>, BrokerError> {
        if let Some(channel) = self
            .lock()
            .as_ref()
            .filter(|channel| channel.status().connected())
        {
            return Ok(Arc::clone(channel));
        }
        let channel = opening.channel().await?;
        *self.lock() = Some(Arc::clone(&channel));
        Ok(channel)
    }

    fn forget(&self, channel: &Arc<OpenChannel>) {
        let mut current = self.lock();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, channel))
        {
            *current = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OpenChannel>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
