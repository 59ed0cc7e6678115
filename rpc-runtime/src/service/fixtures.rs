//! A service, and decisions about requests for it, for the tests of this module.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::admission::Received;
use super::decision::{AdmittedRequest, Decision, Refusal};
use super::dispatcher::Dispatcher;
use super::invocation::{Answer, Invocation, Service};
use super::rules::Rules;
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::protocol::{Fault, FaultCode, Message, Properties, ReplyAddresses, ReplyKind, ShortStr};

const READ: MethodDescriptor = MethodDescriptor::new("read", &["id"])
    .default_method()
    .idempotent();
const WRITE: MethodDescriptor = MethodDescriptor::new("write", &["id"]);
static STORE: ServiceDescriptor = ServiceDescriptor::new("Store", "store", &[READ, WRITE]);

/// A service with the method `read`, which is idempotent and the default, and the method `write`.
pub(super) struct Store;

impl Service for Store {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &STORE
    }

    fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async { invocation.answer(()) })
    }
}

pub(super) fn store() -> Dispatcher {
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(Arc::new(Store), "store").unwrap();
    dispatcher
}

pub(super) fn rules() -> Rules {
    Rules {
        reply_addresses: ReplyAddresses::default(),
        max_accepted_bytes: 10,
        max_sent_bytes: 10,
        max_deliveries: 3,
        is_classic: false,
        admission: true,
        layers_may_answer: false,
    }
}

/// The properties of a request for this method (AMQP's `type` names it), with a time to live of
/// one second and without a `reply_to`.
pub(super) fn request(method: &'static str) -> Properties {
    Properties {
        kind: Some(ShortStr::from_static(method)),
        expiration: Some(Duration::from_secs(1)),
        ..Properties::default()
    }
}

pub(super) fn with_reply_to(properties: Properties) -> Properties {
    Properties {
        reply_to: Some(ShortStr::from_static("amq.gen-1")),
        ..properties
    }
}

pub(super) fn message(properties: Properties) -> Message {
    Message {
        properties,
        body: Bytes::from_static(b"7"),
    }
}

/// Decides whether a request that was received now runs.
pub(super) fn decide(properties: Properties, redelivered: bool) -> Decision<'static> {
    static DISPATCHER: LazyLock<Dispatcher> = LazyLock::new(store);
    let now = Instant::now();
    DISPATCHER
        .decide(message(properties), redelivered, Received::at(now), now, &rules())
        .unwrap()
}

/// The code of the fault of a request that is refused.
pub(super) fn refused(decision: Decision<'_>) -> FaultCode {
    let Refusal { reply, fault, .. } = refusal(decision);
    assert_eq!(reply.kind, ReplyKind::Fault);
    fault.code
}

/// The refusal of a request that is refused.
pub(super) fn refusal(decision: Decision<'_>) -> Refusal<'_> {
    match decision {
        Decision::Refuse(refusal) => refusal,
        Decision::Run(_) => panic!("the request runs"),
        Decision::Cancelled(_) => panic!("the request is cancelled"),
    }
}

/// The name of the method that runs.
pub(super) fn runs(decision: Decision<'_>) -> String {
    admitted(decision).invocation.method().to_owned()
}

pub(super) fn admitted(decision: Decision<'_>) -> AdmittedRequest<'_> {
    match decision {
        Decision::Run(admitted) => admitted,
        Decision::Refuse(Refusal { fault, .. }) => panic!("the request is refused: {fault}"),
        Decision::Cancelled(_) => panic!("the request is cancelled"),
    }
}
