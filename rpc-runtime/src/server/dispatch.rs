//! Which method serves a request, and whether it may run. Pure: decisions over data.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::built_in::is_built_in;
use super::pace::Pace;
use super::service::{Invocation, Service};
use super::stats::MethodStats;
use crate::codec::Codec;
use crate::context::Context;
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::error::{Executed, ServerError};
use crate::protocol::{
    Fault, FaultCode, Malformed, Message, RESENT_HEADER, Reply, ReplyAddresses, Request, ShortStr,
    UnreadableRequest, content,
};
use tokio::time::Instant;

/// The methods that are served on one queue.
#[derive(Default)]
pub(crate) struct Dispatcher {
    methods: HashMap<&'static str, Entry, RandomState>,
    default: Option<Entry>,
    hosted: Vec<Hosted>,
}

/// A service that was added, and what is known of each of its methods.
#[derive(Clone)]
pub(super) struct Hosted {
    pub(super) service: &'static ServiceDescriptor,
    pub(super) records: Vec<Arc<Record>>,
}

#[derive(Clone)]
struct Entry {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    record: Arc<Record>,
    /// Callers may be told how many of its calls are wanted in one message.
    may_pack: bool,
}

/// What is known of a method from the requests that it served.
#[derive(Debug)]
pub(crate) struct Record {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    pub(super) pace: Pace,
    pub(super) stats: MethodStats,
}

impl Record {
    pub(super) fn new(service: &'static str, method: &'static str) -> Self {
        Self {
            service,
            method,
            pace: Pace::default(),
            stats: MethodStats::default(),
        }
    }
}

/// What a worker keeps to.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) reply_addresses: ReplyAddresses,
    pub(crate) max_accepted_bytes: usize,
    pub(crate) max_sent_bytes: usize,
    /// How often a request may have been delivered before it is refused.
    pub(crate) max_deliveries: u32,
}

/// The header in which a quorum queue counts how often it delivered a message before.
pub(super) const DELIVERY_COUNT: &str = "x-delivery-count";

/// What to do with a delivery.
pub(crate) enum Decision<'a> {
    /// Run the method, then answer.
    Run {
        service: &'a dyn Service,
        invocation: Invocation,
        record: &'a Record,
        /// The caller asks how many calls of the method are wanted in one message.
        packs: bool,
        answer_to: Option<ReplyTo>,
    },
    /// Do not run it, and answer with this.
    Refuse {
        reply: Reply,
        fault: Fault,
        answer_to: Option<ReplyTo>,
    },
}

/// Where an answer goes, and what it echoes.
#[derive(Debug, Clone)]
pub(crate) struct ReplyTo {
    pub(crate) address: ShortStr,
    pub(crate) correlation_id: Option<ShortStr>,
    /// The request's own name of its content type; `None` if it is the codec's.
    pub(crate) content_type: Option<ShortStr>,
}

impl ReplyTo {
    /// The message that answers the request. Nothing else of the request is copied.
    pub(super) fn message(&self, reply: Reply) -> Message {
        let mut message = reply.into_message(self.correlation_id.clone());
        if let Some(content_type) = &self.content_type {
            message.properties.content_type = Some(content_type.clone());
        }
        message
    }
}

impl Dispatcher {
    /// Adds a service's methods.
    ///
    /// # Errors
    ///
    /// Where a service added before has a method of the same name, or a default method too, and where a method has a name of those
    /// that are built in.
    pub(crate) fn add(&mut self, service: Arc<dyn Service>, queue: &str) -> Result<(), ServerError> {
        let descriptor = service.descriptor();
        let mut records = Vec::with_capacity(descriptor.methods.len());
        for method in descriptor.methods {
            if is_built_in(method.name) {
                return Err(ServerError::ReservedMethod {
                    service: descriptor.name,
                    method: method.name,
                });
            }
            let entry = Entry {
                service: Arc::clone(&service),
                method,
                record: Arc::new(Record::new(descriptor.name, method.name)),
                may_pack: true,
            };
            records.push(Arc::clone(&entry.record));
            if method.is_default && self.default.replace(entry.clone()).is_some() {
                return Err(ServerError::DuplicateDefault {
                    queue: queue.to_owned(),
                });
            }
            if self.methods.insert(method.name, entry).is_some() {
                return Err(ServerError::DuplicateMethod {
                    queue: queue.to_owned(),
                    method: method.name,
                });
            }
        }
        self.hosted.push(Hosted {
            service: descriptor,
            records,
        });
        Ok(())
    }

    /// Adds the methods that the runtime adds.
    pub(super) fn add_built_in(&mut self, service: &Arc<dyn Service>) {
        for method in service.descriptor().methods {
            let entry = Entry {
                service: Arc::clone(service),
                method,
                record: Arc::new(Record::new(service.descriptor().name, method.name)),
                may_pack: false,
            };
            self.methods.insert(method.name, entry);
        }
    }

    /// The services that were added, in their order; not what is built in.
    pub(super) fn hosted(&self) -> &[Hosted] {
        &self.hosted
    }

    /// Decides about a delivery that arrived at one instant and could begin at another.
    ///
    /// # Errors
    ///
    /// Where it is not to be run, and nobody to be answered: its `reply_to` could be any queue.
    pub(crate) fn decide(
        &self,
        message: Message,
        redelivered: bool,
        arrived: Instant,
        now: Instant,
        rules: &Rules,
    ) -> Result<Decision<'_>, NoReplyAddress> {
        if let Some(address) = &message.properties.reply_to {
            rules.check_address(address)?;
        }
        let answer_to = message
            .properties
            .reply_to
            .clone()
            .filter(|address| !address.as_str().is_empty())
            .map(|address| ReplyTo {
                address,
                correlation_id: message.properties.correlation_id.clone(),
                content_type: content::alias(&message.properties),
            });
        // An earlier delivery or an earlier request may run, or have run, elsewhere.
        let came_before = redelivered || message.properties.headers.get(RESENT_HEADER).is_some();
        Ok(match Request::from_message(message) {
            Ok(request) => self.decide_request(request, answer_to, redelivered, arrived, now, rules),
            Err(UnreadableRequest { codec, fault }) => Decision::refuse(codec, fault, answer_to, came_before),
        })
    }

    /// Decides about a delivery with malformed properties: it is never run, and answered if it can be.
    ///
    /// # Errors
    ///
    /// As [`decide`](Self::decide).
    pub(crate) fn refuse_malformed(
        message: Message,
        malformed: Malformed,
        rules: &Rules,
    ) -> Result<Decision<'static>, NoReplyAddress> {
        let properties = message.properties;
        let codec = content::codec(&properties).ok().flatten().unwrap_or(Codec::Text);
        let content_type = content::alias(&properties);
        if let Some(address) = &properties.reply_to {
            rules.check_address(address)?;
        }
        let correlation_id = properties.correlation_id;
        let answer_to = properties
            .reply_to
            .filter(|address| !address.as_str().is_empty())
            .map(|address| ReplyTo {
                address,
                correlation_id,
                content_type,
            });
        let fault = Fault::bad_request(format_args!("the request cannot be read: {malformed}"));
        Ok(Decision::refuse(codec, fault, answer_to, false))
    }

    /// As [`decide`](Self::decide), of a request that may be answered to.
    pub(crate) fn decide_request(
        &self,
        mut request: Request,
        answer_to: Option<ReplyTo>,
        redelivered: bool,
        arrived: Instant,
        now: Instant,
        rules: &Rules,
    ) -> Decision<'_> {
        let came_before = redelivered || request.headers.get(RESENT_HEADER).is_some();
        let (codec, size) = (request.codec, request.arguments.len());
        if size > rules.max_accepted_bytes {
            let limit = rules.max_accepted_bytes;
            let fault = format!("the request has {size} bytes, and at most {limit} are accepted");
            return Decision::refuse(
                codec,
                Fault::new(FaultCode::TooLarge, fault),
                answer_to,
                came_before,
            );
        }
        let Entry {
            service,
            method,
            record,
            may_pack,
        } = match self.find(request.method.as_ref()) {
            Ok(entry) => entry,
            Err(fault) => return Decision::refuse(codec, fault, answer_to, came_before),
        };
        if redelivered && let Some(reason) = rules.forbids_again(method, &request) {
            return Decision::refuse(codec, interrupted(reason), answer_to, came_before);
        }
        let worth_until = request.time_to_live.and_then(|time| arrived.checked_add(time));
        if worth_until.is_some_and(|deadline| deadline <= now) {
            let fault = Fault::new(
                FaultCode::Expired,
                "the caller's time was up before the method could start",
            );
            return Decision::refuse(codec, fault, answer_to, came_before);
        }
        let context = Context::new(method.name, &mut request, arrived, redelivered);
        let invocation = Invocation::new(context, codec, request.arguments);
        Decision::Run {
            service: &**service,
            invocation,
            record,
            packs: request.packs && *may_pack,
            answer_to,
        }
    }

    /// Whether a request of this method that came before may be run.
    pub(super) fn may_run_again(&self, method: Option<&ShortStr>) -> bool {
        self.find(method).is_ok_and(|entry| entry.method.is_idempotent)
    }

    fn find(&self, method: Option<&ShortStr>) -> Result<&Entry, Fault> {
        match method {
            Some(name) => self
                .methods
                .get(name.as_str())
                .ok_or_else(|| Fault::unknown_method(name.as_str())),
            None => self.default.as_ref().ok_or_else(|| {
                Fault::new(
                    FaultCode::UnknownMethod,
                    "the request names no method, and the service has no default one",
                )
            }),
        }
    }
}

/// The address is not one to answer to; see [`ReplyAddresses`].
#[derive(Debug)]
pub(crate) struct NoReplyAddress(pub(crate) ShortStr);

impl Rules {
    /// Whether a request with this `reply_to` may be answered; an empty one asks for no answer.
    pub(crate) fn check_address(&self, address: &ShortStr) -> Result<(), NoReplyAddress> {
        match address.as_str() {
            "" => Ok(()),
            name if self.reply_addresses.allows(name) => Ok(()),
            _ => Err(NoReplyAddress(address.clone())),
        }
    }

    /// # Errors
    ///
    /// The fault to answer with in the place of a reply that is larger than may be sent.
    pub(super) fn check_reply(&self, reply: &Reply) -> Result<(), Fault> {
        let (size, limit) = (reply.body.len(), self.max_sent_bytes);
        if size <= limit {
            return Ok(());
        }
        let message = format!(
            "the method ran, and its reply of {size} bytes is larger than the {limit} that may be sent"
        );
        Err(Fault::new(FaultCode::ReplyTooLarge, message))
    }

    /// Why a request that was delivered before is not run again; nothing where it may be.
    fn forbids_again(&self, method: &MethodDescriptor, request: &Request) -> Option<&'static str> {
        if !method.is_idempotent {
            return Some("the method is not idempotent");
        }
        // It may be the request itself that ends its workers, so it must not come back for ever.
        let count = request
            .headers
            .get(DELIVERY_COUNT)
            .and_then(|count| count.parse::<u32>().ok());
        match (count, request.time_to_live) {
            (Some(count), _) if count >= self.max_deliveries => Some("it has come back too often"),
            (None, None) => Some("it has no expiration, and its queue does not count how often it came back"),
            _ => None,
        }
    }
}

/// A fault may say that the method did not run; of a request that came before, nobody here knows that.
pub(crate) fn truthful(fault: Fault, came_before: bool) -> Fault {
    match fault.code.executed() {
        Executed::No if came_before => interrupted(fault),
        _ => fault,
    }
}

impl Decision<'_> {
    fn refuse(codec: Codec, fault: Fault, answer_to: Option<ReplyTo>, came_before: bool) -> Self {
        let fault = truthful(fault, came_before);
        Self::Refuse {
            reply: Reply::fault(codec, &fault),
            fault,
            answer_to,
        }
    }
}

fn interrupted(reason: impl std::fmt::Display) -> Fault {
    let message = format!("an earlier delivery of this request was lost with its worker, and now: {reason}");
    Fault::new(FaultCode::Interrupted, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::describe::ServiceDescriptor;
    use crate::protocol::{Properties, Property, ReplyKind};
    use crate::server::service::Answer;

    const READ: MethodDescriptor = MethodDescriptor::new("read", &["id"])
        .default_method()
        .idempotent();
    const WRITE: MethodDescriptor = MethodDescriptor::new("write", &["id"]);
    static STORE: ServiceDescriptor = ServiceDescriptor::new("Store", "store", &[READ, WRITE]);

    struct Store;

    impl Service for Store {
        fn descriptor(&self) -> &'static ServiceDescriptor {
            &STORE
        }

        fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
            Box::pin(async { invocation.answer(()) })
        }
    }

    fn store() -> Dispatcher {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add(Arc::new(Store), "store").unwrap();
        dispatcher
    }

    fn decide(properties: Properties, redelivered: bool) -> Decision<'static> {
        static DISPATCHER: std::sync::LazyLock<Dispatcher> = std::sync::LazyLock::new(store);
        let message = Message {
            properties,
            body: Bytes::from_static(b"7"),
        };
        let now = Instant::now();
        DISPATCHER
            .decide(message, redelivered, now, now, &rules())
            .unwrap()
    }

    fn rules() -> Rules {
        Rules {
            reply_addresses: ReplyAddresses::default(),
            max_accepted_bytes: 10,
            max_sent_bytes: 10,
            max_deliveries: 3,
        }
    }

    fn request(method: &'static str) -> Properties {
        Properties {
            kind: Some(ShortStr::from_static(method)),
            expiration: Some(Duration::from_secs(1)),
            ..Properties::default()
        }
    }

    fn refusal(decision: Decision<'_>) -> FaultCode {
        match decision {
            Decision::Refuse { reply, fault, .. } => {
                assert_eq!(reply.kind, ReplyKind::Fault);
                fault.code
            }
            Decision::Run { .. } => panic!("it would run"),
        }
    }

    fn run(decision: Decision<'_>) -> String {
        match decision {
            Decision::Run { invocation, .. } => invocation.method().to_owned(),
            Decision::Refuse { fault, .. } => panic!("it would be refused: {fault}"),
        }
    }

    #[test]
    fn a_malformed_request_is_refused_and_answered_where_a_reply_address_can_be_read() {
        let refuse = |reply_to| {
            let message = Message {
                properties: Properties {
                    reply_to,
                    correlation_id: Some(ShortStr::from_static("7")),
                    content_type: Some(ShortStr::from_static("application/json")),
                    ..request("write")
                },
                body: Bytes::from_static(b"7"),
            };
            let malformed = Malformed::NotUtf8(Property::MessageId);
            Dispatcher::refuse_malformed(message, malformed, &rules())
        };
        let address = ShortStr::from_static("amq.gen-1");
        let Ok(Decision::Refuse {
            reply,
            fault,
            answer_to: Some(to),
        }) = refuse(Some(address.clone()))
        else {
            panic!("it is not answered");
        };
        assert_eq!(
            (to.address, to.correlation_id),
            (address, Some(ShortStr::from_static("7")))
        );
        assert_eq!(
            fault,
            Fault::bad_request("the request cannot be read: its message_id is not UTF-8")
        );
        assert_eq!((reply.codec, reply.read_fault()), (Codec::Json, fault));

        assert!(matches!(
            refuse(None),
            Ok(Decision::Refuse { answer_to: None, .. })
        ));
        assert!(refuse(Some(ShortStr::from_static("orders"))).is_err());
    }

    #[test]
    fn a_request_without_a_method_runs_the_default_one() {
        assert_eq!(run(decide(Properties::default(), false)), "read");
        assert_eq!(run(decide(request("write"), false)), "write");
        assert_eq!(refusal(decide(request("erase"), false)), FaultCode::UnknownMethod);
    }

    #[test]
    fn only_idempotent_methods_run_again() {
        assert_eq!(run(decide(request("read"), true)), "read");
        assert_eq!(refusal(decide(request("write"), true)), FaultCode::Interrupted);
        // The worker before this one may have known it.
        assert_eq!(refusal(decide(request("erase"), true)), FaultCode::Interrupted);
    }

    #[test]
    fn an_idempotent_request_does_not_come_back_for_ever() {
        let counted = |count: u32, expiration| {
            let mut properties = Properties {
                expiration,
                ..request("read")
            };
            let name = ShortStr::from_static(DELIVERY_COUNT);
            properties.headers.insert(name, count.to_string());
            properties
        };
        let some_time = request("read").expiration;
        assert_eq!(run(decide(counted(2, some_time), true)), "read");
        assert_eq!(run(decide(counted(2, None), true)), "read");
        assert_eq!(
            refusal(decide(counted(3, some_time), true)),
            FaultCode::Interrupted
        );
        // Nothing else would end it.
        let endless = Properties {
            expiration: None,
            ..request("read")
        };
        assert_eq!(run(decide(endless.clone(), false)), "read");
        assert_eq!(refusal(decide(endless, true)), FaultCode::Interrupted);
    }

    #[test]
    fn what_waited_here_past_its_time_is_not_begun() {
        let dispatcher = store();
        let message = || Message {
            properties: request("read"),
            body: Bytes::from_static(b"7"),
        };
        let arrived = Instant::now();
        let after = |time| {
            let decided = dispatcher.decide(message(), false, arrived, arrived + time, &rules());
            decided.unwrap()
        };
        assert_eq!(run(after(Duration::from_millis(999))), "read");
        assert_eq!(refusal(after(Duration::from_secs(1))), FaultCode::Expired);
    }

    #[test]
    fn a_request_that_would_be_answered_into_any_queue_is_dropped() {
        let mut properties = request("read");
        properties.reply_to = Some(ShortStr::from_static("payments"));
        let message = Message {
            properties,
            body: Bytes::from_static(b"7"),
        };
        let dispatcher = store();
        let now = Instant::now();
        let decided = dispatcher.decide(message, false, now, now, &rules());
        assert!(matches!(decided, Err(NoReplyAddress(address)) if address.as_str() == "payments"));
    }

    #[test]
    fn a_request_without_time_left_is_not_begun() {
        let mut properties = request("read");
        properties.expiration = Some(std::time::Duration::ZERO);
        assert_eq!(refusal(decide(properties, false)), FaultCode::Expired);
    }

    #[test]
    fn an_unknown_content_type_is_refused_in_text() {
        let mut properties = request("read");
        properties.content_type = Some(ShortStr::from_static("image/png"));
        let Decision::Refuse { reply, .. } = decide(properties, false) else {
            panic!("it was not refused")
        };
        assert_eq!(reply.codec, Codec::Text);
    }

    #[test]
    fn names_of_built_in_methods_are_taken() {
        struct Impostor;

        impl Service for Impostor {
            fn descriptor(&self) -> &'static ServiceDescriptor {
                static IMPOSTOR: ServiceDescriptor =
                    ServiceDescriptor::new("Impostor", "q", &[MethodDescriptor::new("rpc.anything", &[])]);
                &IMPOSTOR
            }

            fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
                Box::pin(async { invocation.answer(()) })
            }
        }

        let refused = Dispatcher::default().add(Arc::new(Impostor), "q");
        assert!(matches!(
            refused,
            Err(ServerError::ReservedMethod {
                method: "rpc.anything",
                ..
            })
        ));
    }

    #[test]
    fn callers_are_not_told_to_pack_what_is_built_in_nor_is_it_hosted() {
        struct BuiltIn;

        impl Service for BuiltIn {
            fn descriptor(&self) -> &'static ServiceDescriptor {
                &crate::discovery::BUILT_IN
            }

            fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
                Box::pin(async { invocation.answer(()) })
            }
        }

        let mut dispatcher = store();
        dispatcher.add_built_in(&(Arc::new(BuiltIn) as Arc<dyn Service>));
        let packs = |method| {
            let mut properties = request(method);
            let name = ShortStr::from_static(crate::protocol::PACKING_HEADER);
            properties.headers.insert(name, String::new());
            let message = Message {
                properties,
                body: Bytes::new(),
            };
            let now = Instant::now();
            match dispatcher.decide(message, false, now, now, &rules()).unwrap() {
                Decision::Run { packs, .. } => packs,
                Decision::Refuse { fault, .. } => panic!("{fault}"),
            }
        };
        assert!(packs("read") && !packs("rpc.ping"));
        let hosted: Vec<_> = dispatcher
            .hosted()
            .iter()
            .map(|hosted| hosted.service.name)
            .collect();
        assert_eq!(hosted, ["Store"]);
        assert_eq!(dispatcher.find(None).unwrap().method.name, "read");
    }

    #[test]
    fn services_on_one_queue_must_not_share_methods() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add(Arc::new(Store), "store").unwrap();
        assert!(matches!(
            dispatcher.add(Arc::new(Store), "store"),
            Err(ServerError::DuplicateDefault { .. })
        ));
    }
}
