//! Adds a stream of items to a call.

use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use serde::Serialize;

use super::upload::Upload;
use crate::client::call::Call;
use crate::client::plan::CallPlan;
use crate::client::streaming::{ItemInbox, StreamingCall};
use crate::protocol::Volume;

/// A call that can send items: [`Call`] or [`StreamingCall`].
pub trait SendsItems {
    /// Adds the items that the call sends while its method runs.
    #[must_use]
    fn with_items<T: Serialize + 'static>(self, items: impl Stream<Item = T> + Send + 'static) -> Self;
}

impl<T, E> SendsItems for Call<T, E> {
    fn with_items<I: Serialize + 'static>(mut self, items: impl Stream<Item = I> + Send + 'static) -> Self {
        self.change_plan(|plan| {
            let inbox = ItemInbox::new();
            // No items precede the reply.
            inbox.change_window(|window| *window = Volume::default());
            add_items(plan, items, Arc::new(inbox), false);
            Ok(())
        });
        self
    }
}

impl<T, E> SendsItems for StreamingCall<T, E> {
    fn with_items<I: Serialize + 'static>(mut self, items: impl Stream<Item = I> + Send + 'static) -> Self {
        self.change_plan(|plan| {
            if let Some(inbox) = plan.destination.items.clone() {
                add_items(plan, items, inbox, true);
            }
            Ok(())
        });
        self
    }
}

/// Adds items to a call. The worker's messages go to `inbox`.
fn add_items<T: Serialize + 'static>(
    plan: &mut CallPlan,
    items: impl Stream<Item = T> + Send + 'static,
    inbox: Arc<ItemInbox>,
    replies_with_items: bool,
) {
    let codec = plan.codec;
    let items = items.map(move |item| codec.encode_result(&item)).boxed();
    let upload = Upload::new(items, Arc::clone(&inbox), replies_with_items);
    plan.destination = Arc::new(plan.destination.with_upload(Arc::new(upload), inbox));
}
