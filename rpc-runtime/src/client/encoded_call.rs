//! Calls that are kept as bytes and sent later.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::builder::DEFAULT_TIMEOUT;
use super::call::Call;
use super::call_path::CallPath;
use super::called_method::{CalledMethod, CalledService, DescribedMethod, DescribedService};
use super::caller::Caller;
use super::destination::{Destination, MethodIndex};
use super::in_flight_call::InFlightCall;
use super::limiter::Limiter;
use super::plan::{Arguments, CallPlan};
use super::stub::read_plain;
use crate::codec::Codec;
use crate::error::CallError;
use crate::protocol::{
    DELAY_HEADER, Headers, RequestId, ShortStr, StoredFormatError, check_destination_name,
    insert_user_header, read_stored, write_stored,
};

/// A call of a job that is kept as bytes and sent later; made by [`Call::encode`].
///
/// This is what an [outbox](https://microservices.io/patterns/data/transactional-outbox.html)
/// holds: a program writes the bytes in the same database transaction as its other changes.
/// Afterwards it, or a relay, sends the call with [`Broker::send`](crate::Broker::send) and deletes
/// the bytes. If a crash comes between, the call is sent again, with the same
/// [`request_id`](crate::Context::request_id).
///
/// ```
/// # use rpc_runtime::{Broker, CallError, EncodedCall, Server, service};
/// # #[service(queue = "mail")]
/// # pub trait Mail { #[rpc(oneway, idempotent)] async fn send(&self, to: &str); }
/// # struct Postman;
/// # impl Mail for Postman { async fn send(&self, _: &str) {} }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = Broker::in_process();
/// # let server = Server::new(&broker).serve(MailServer::new(Postman)).start().await?;
/// # let mail = MailClient::new(&broker);
/// // In a transaction:
/// let bytes = mail.send("alice@example.com").encode()?.to_bytes();
///
/// // Later, as often as it takes:
/// let call = EncodedCall::from_bytes(&bytes)?;
/// broker.send(&call).await?;
/// # server.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EncodedCall {
    id: RequestId,
    service: String,
    queue: ShortStr,
    method: ShortStr,
    codec: Codec,
    headers: Headers,
    priority: Option<u8>,
    arguments: Bytes,
}

/// The format of [`EncodedCall::to_bytes`].
#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    service: String,
    queue: String,
    method: String,
    content_type: String,
    headers: Vec<(String, String)>,
    priority: Option<u8>,
    arguments: Bytes,
}

impl<T, E> Call<T, E> {
    /// Encodes the call of a job, to keep it in a database and to send it later; see
    /// [`EncodedCall`].
    ///
    /// Headers, priority and delay are kept. The timeout, [`detached`](Self::detached) and
    /// [`wait_for_server`](crate::ClientBuilder::wait_for_server) are not, and layers of the client
    /// do not see the call.
    ///
    /// # Errors
    ///
    /// - [`CallError::CannotEncode`] if the method is not a job (`#[rpc(oneway, idempotent)]`), if
    ///   the call has begun, or if it was made with [`ready`](Self::ready),
    /// - the errors of a call that cannot be sent, such as [`CallError::Invalid`] and
    ///   [`CallError::TooLarge`].
    pub fn encode(self) -> Result<EncodedCall, CallError<E>> {
        let (path, planned) = self.into_planned().ok_or(CallError::CannotEncode)?;
        let call = planned.map_err(|reason| CallError::from(reason).widen())?;
        path.check_size(call.plan()).map_err(CallError::widen)?;
        EncodedCall::of(&call).ok_or(CallError::CannotEncode)
    }
}

impl EncodedCall {
    /// Encodes a call. `None` if its method is not a job.
    fn of(call: &InFlightCall) -> Option<Self> {
        let plan = call.plan();
        plan.method.is_job().then(|| Self {
            id: RequestId::of(call.id()),
            service: plan.destination.service.name().to_owned(),
            queue: plan.destination.queue.clone(),
            method: plan.method.wire_name(),
            codec: plan.codec,
            headers: plan.headers.clone(),
            priority: plan.priority,
            arguments: plan.arguments.0.clone(),
        })
    }

    /// Returns a call that sends the job, each time with the same id.
    pub(crate) fn call(&self, caller: Arc<Caller>) -> Call<()> {
        let limiter = caller.encoded_call_limiters.of(&self.queue);
        let path = CallPath::Direct(Backend::Broker(caller));
        let call = InFlightCall::with_id(self.id.uuid(), self.plan(limiter));
        Call::new(path, Ok(Arc::new(call)), read_plain::<()>)
    }

    /// Returns the plan of a call that sends this job, never in a batch.
    fn plan(&self, limiter: Arc<Limiter>) -> CallPlan {
        let queue = self.queue.as_str();
        let service = DescribedService::of_queue(&self.service, queue);
        let service = CalledService::Described(Arc::new(service));
        let may_batch = false;
        CallPlan {
            method: CalledMethod::Described(Arc::new(DescribedMethod::job(self.method.clone()))),
            destination: Arc::new(Destination::new(self.queue.clone(), service, may_batch, limiter)),
            method_index: MethodIndex::NONE,
            codec: self.codec,
            arguments: Arguments(self.arguments.clone()),
            timeout: DEFAULT_TIMEOUT,
            headers: self.headers.clone(),
            priority: self.priority,
            wait_for_server: false,
            is_detached: false,
        }
    }

    /// Encodes the call with its arguments, headers and id. Later versions of this library
    /// can read the bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let headers = self.headers.iter();
        write_stored(&Stored {
            id: self.id.to_string(),
            service: self.service.clone(),
            queue: self.queue.as_str().to_owned(),
            method: self.method.as_str().to_owned(),
            content_type: self.codec.content_type().to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            priority: self.priority,
            arguments: self.arguments.clone(),
        })
    }

    /// Decodes a call.
    ///
    /// # Errors
    ///
    /// If the bytes are damaged, or have a version of the format that this library does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoredFormatError> {
        let stored: Stored = read_stored(bytes)?;
        let short_str = |text: &str| ShortStr::new(text).map_err(StoredFormatError::damaged);
        let mut headers = Headers::default();
        let (delay, user_headers): (Vec<_>, Vec<_>) = stored
            .headers
            .into_iter()
            .partition(|(name, _)| name == DELAY_HEADER);
        for (name, value) in user_headers {
            insert_user_header(&mut headers, name, value)
                .map_err(|invalid| StoredFormatError::damaged(invalid.source))?;
        }
        // Only the library may set this header. It is inserted last, so that it does not count
        // toward the limit of the user's headers.
        for (_, value) in delay {
            headers.insert(ShortStr::from_static(DELAY_HEADER), value);
        }
        Ok(Self {
            id: stored.id.parse().map_err(StoredFormatError::damaged)?,
            service: stored.service,
            queue: check_destination_name(&stored.queue).map_err(StoredFormatError::damaged)?,
            method: short_str(&stored.method)?,
            codec: stored.content_type.parse().map_err(StoredFormatError::damaged)?,
            headers,
            priority: stored.priority,
            arguments: stored.arguments,
        })
    }

    /// Returns the id that the job gets as [`Context::request_id`](crate::Context::request_id). It
    /// is a good primary key of an outbox.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.id
    }

    /// Returns the queue that the request is sent to.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.queue.as_str()
    }

    /// Returns the name of the service that is called.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Returns the name of the method that is called.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_str()
    }
}

/// Does not show the arguments, which may be secret.
impl fmt::Debug for EncodedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedCall")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("method", &self.method)
            .field("bytes", &self.arguments.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::protocol::remaining_delay;
    use crate::{Broker, Executed, service};

    #[service(queue = "mail")]
    trait Mail {
        #[rpc(oneway, idempotent)]
        async fn send(&self, to: &str);
        #[rpc(oneway)]
        async fn post(&self);
        #[rpc(idempotent)]
        async fn count(&self) -> u64;
    }

    fn client() -> MailClient {
        MailClient::builder(&Broker::in_process())
            .codec(Codec::Json)
            .build()
    }

    #[tokio::test]
    async fn an_encoded_call_is_read_back() {
        let call = client()
            .send("alice")
            .header("tenant", "acme")
            .priority(7)
            .delay(Duration::from_secs(5));
        let encoded = call.encode().unwrap();
        let EncodedCall {
            id,
            service,
            queue,
            method,
            codec,
            headers,
            priority,
            arguments,
        } = EncodedCall::from_bytes(&encoded.to_bytes()).unwrap();
        assert_eq!(id, encoded.request_id());
        assert_eq!(
            (service.as_str(), queue.as_str(), method.as_str()),
            ("Mail", "mail", "send")
        );
        assert_eq!((codec, priority), (Codec::Json, Some(7)));
        assert_eq!(headers.get("tenant"), Some("acme"));
        assert_eq!(remaining_delay(&headers), Duration::from_secs(5));
        assert_eq!(&arguments[..], br#"{"to":"alice"}"#);
    }

    #[tokio::test]
    async fn a_header_of_the_broker_or_of_workers_is_not_read() {
        for name in ["x-death", "CC", "rpc-copy"] {
            let mut encoded = client().send("alice").encode().unwrap();
            encoded
                .headers
                .insert(ShortStr::from_static(name), "forged".into());
            EncodedCall::from_bytes(&encoded.to_bytes()).unwrap_err();
        }
    }

    #[tokio::test]
    async fn calls_that_are_sent_to_a_queue_share_a_limiter() {
        let broker = Broker::in_process();
        let encoded = client().send("alice").encode().unwrap();
        let [first, second] = [(); 2].map(|()| {
            let (_, call) = broker.send(&encoded).into_planned().unwrap();
            Arc::clone(&call.unwrap().plan().destination.limiter)
        });
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[tokio::test]
    async fn only_the_call_of_a_job_can_be_encoded() {
        let refused = |error| matches!(error, CallError::CannotEncode);
        assert!(refused(client().post().encode().unwrap_err()));
        assert!(refused(client().count().encode().unwrap_err()));
        assert!(refused(Call::<()>::ready(Ok(())).encode().unwrap_err()));
    }

    #[tokio::test]
    async fn a_call_that_has_begun_may_have_been_sent() {
        let mut begun = client().send("alice");
        let _ = (&mut begun).now_or_never();
        let error = begun.encode().unwrap_err();
        assert!(matches!(error, CallError::CannotEncode));
        assert_eq!(error.executed(), Executed::Maybe);
    }

    #[tokio::test]
    async fn a_call_that_cannot_be_sent_cannot_be_encoded() {
        let call = client().send("alice").header("x-death", "");
        assert!(matches!(call.encode(), Err(CallError::Invalid { .. })));

        let broker = Broker::builder()
            .max_sent_bytes(20)
            .address("amqp://localhost")
            .lazy()
            .unwrap();
        for client in [
            MailClient::new(&broker),
            MailClient::builder(&broker)
                .layer(tower_layer::Identity::new())
                .build(),
        ] {
            client.send("alice").encode().unwrap();
            let call = client.send(&"a".repeat(30));
            assert!(matches!(
                call.encode(),
                Err(CallError::TooLarge { limit: 20, .. })
            ));
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        assert!(EncodedCall::from_bytes(b"").is_err());
        assert!(EncodedCall::from_bytes(b"\x01\x80").is_err());
    }
}
