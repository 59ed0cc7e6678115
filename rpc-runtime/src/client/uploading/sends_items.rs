//! Adds a stream of items to a call.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;

use super::upload::Upload;
use crate::client::call::Call;
use crate::client::plan::CallPlan;
use crate::client::streaming::{ItemInbox, StreamingCall};
use crate::codec::{Codec, EncodeError};
use crate::protocol::Volume;

/// A call that can send items: [`Call`] or [`StreamingCall`].
pub trait SendsItems: Sized {
    /// Adds the items that the call sends while its method runs.
    #[must_use]
    fn with_items<T: Serialize + 'static>(self, items: impl Stream<Item = T> + Send + 'static) -> Self {
        self.with_encoded_items(items, |codec, item| codec.encode_result(&item))
    }

    /// Adds items like [`with_items`](Self::with_items), and encodes them with this function.
    #[must_use]
    fn with_encoded_items<T: 'static>(
        self,
        items: impl Stream<Item = T> + Send + 'static,
        encode: EncodeItem<T>,
    ) -> Self;
}

type EncodeItem<T> = fn(Codec, T) -> Result<Bytes, EncodeError>;

impl<T, E> SendsItems for Call<T, E> {
    fn with_encoded_items<I: 'static>(
        mut self,
        items: impl Stream<Item = I> + Send + 'static,
        encode: EncodeItem<I>,
    ) -> Self {
        self.change_plan(|plan| {
            let inbox = ItemInbox::new();
            // The method replies without a stream, so its worker gets no credit for items.
            inbox.change_window(|window| *window = Volume::default());
            let replies_with_items = false;
            add_items(plan, items, encode, Arc::new(inbox), replies_with_items);
            Ok(())
        });
        self
    }
}

impl<T, E> SendsItems for StreamingCall<T, E> {
    fn with_encoded_items<I: 'static>(
        mut self,
        items: impl Stream<Item = I> + Send + 'static,
        encode: EncodeItem<I>,
    ) -> Self {
        self.change_plan(|plan| {
            // Each call whose method replies with a stream has an inbox.
            if let Some(inbox) = plan.destination.inbox.clone() {
                let replies_with_items = true;
                add_items(plan, items, encode, inbox, replies_with_items);
            }
            Ok(())
        });
        self
    }
}

/// Adds the items that a call sends to its plan. The worker's messages go to `inbox`.
fn add_items<T: 'static>(
    plan: &mut CallPlan,
    items: impl Stream<Item = T> + Send + 'static,
    encode: EncodeItem<T>,
    inbox: Arc<ItemInbox>,
    replies_with_items: bool,
) {
    let codec = plan.codec;
    let items = items.map(move |item| encode(codec, item)).boxed();
    let upload = Upload::new(items, Arc::clone(&inbox), replies_with_items);
    plan.destination = Arc::new(plan.destination.with_upload(Arc::new(upload), inbox));
}
