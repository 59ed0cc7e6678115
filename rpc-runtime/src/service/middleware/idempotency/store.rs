//! What the layer asks of a store.

use std::future::Future;
use std::sync::Arc;

use super::stored_outcome::StoredOutcome;
use crate::protocol::RequestId;
use crate::service::middleware::BoxError;

/// Keeps the outcomes of requests for [`Idempotency`](super::layer::Idempotency).
///
/// Implementations may write the methods as `async fn`. All workers of a service should share one
/// store, such as a table of their database. Outcomes may be deleted once their requests can no
/// longer come back. A call does not come back after its timeout. A job may wait in retry queues,
/// and in the dead-letter queue for as long as operators like.
///
/// ```
/// use rpc_runtime::RequestId;
/// use rpc_runtime::middleware::{BoxError, IdempotencyStore, StoredOutcome};
/// # struct Database;
/// # impl Database {
/// #     async fn outcome(&self, _: String) -> Result<Option<Vec<u8>>, BoxError> { Ok(None) }
/// #     async fn insert(&self, _: String, _: Vec<u8>) -> Result<(), BoxError> { Ok(()) }
/// # }
///
/// impl IdempotencyStore for Database {
///     async fn load(&self, id: RequestId) -> Result<Option<StoredOutcome>, BoxError> {
///         // SELECT outcome FROM outcomes WHERE request_id = ?
///         let bytes = self.outcome(id.to_string()).await?;
///         Ok(bytes.map(|bytes| StoredOutcome::from_bytes(&bytes)).transpose()?)
///     }
///
///     async fn save(&self, id: RequestId, outcome: StoredOutcome) -> Result<(), BoxError> {
///         // INSERT INTO outcomes (request_id, outcome) VALUES (?, ?) ON CONFLICT DO NOTHING
///         self.insert(id.to_string(), outcome.to_bytes()).await
///     }
/// }
/// ```
pub trait IdempotencyStore: Send + Sync + 'static {
    /// Returns the outcome of a request, or `None` if it is not stored.
    ///
    /// # Errors
    ///
    /// The method does not run, and the caller gets a fault without this error's text.
    fn load(&self, id: RequestId) -> impl Future<Output = Result<Option<StoredOutcome>, BoxError>> + Send;

    /// Stores the outcome of a request. Keeps the first one if there is one: two workers may have
    /// run a method that is `idempotent`.
    ///
    /// # Errors
    ///
    /// The caller gets a fault that says that the method may have run, without this error's text.
    fn save(
        &self,
        id: RequestId,
        outcome: StoredOutcome,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl<S: IdempotencyStore> IdempotencyStore for Arc<S> {
    async fn load(&self, id: RequestId) -> Result<Option<StoredOutcome>, BoxError> {
        S::load(self, id).await
    }

    async fn save(&self, id: RequestId, outcome: StoredOutcome) -> Result<(), BoxError> {
        S::save(self, id, outcome).await
    }
}
