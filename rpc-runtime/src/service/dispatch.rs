//! Which method serves a request, and whether it may run. Pure: decisions over data.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::admission::{Received, fits};
use super::context::Context;
use super::deduplication::returns;
use super::invocation::{Invocation, Service};
use super::pace::Pace;
use super::stats::MethodStats;
use crate::codec::Codec;
use crate::describe::{MethodDescriptor, ServiceDescriptor, is_built_in};
use crate::error::ServerError;
use crate::protocol::{
    Executed, Fault, FaultCode, Headers, Malformed, Message, RESENT_HEADER, Reply, ReplyAddresses, Request,
    ShortStr, UnreadableRequest, content,
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
pub(crate) struct Hosted {
    pub(crate) service: &'static ServiceDescriptor,
    pub(crate) records: Vec<Arc<Record>>,
}

#[derive(Clone)]
struct Entry {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    record: Arc<Record>,
    /// Callers may be told how many of its calls are wanted in one message.
    may_batch: bool,
}

/// What is known of a method from the requests that it served.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    pub(crate) pace: Pace,
    pub(crate) stats: MethodStats,
}

impl Record {
    pub(crate) fn new(service: &'static str, method: &'static str) -> Self {
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
    /// Requests whose methods would not end in time are refused.
    pub(crate) admission: bool,
}

/// The headers in which a quorum queue counts how often it delivered a message before. RabbitMQ 4.3
/// counts in the first one the times that a consumer was lost, and in the second one all of them.
pub(crate) const DELIVERY_COUNT: &str = "x-delivery-count";
pub(crate) const ACQUIRED_COUNT: &str = "x-acquired-count";

/// What to do with a delivery.
pub(crate) enum Decision<'a> {
    /// Run the method, then answer.
    Run {
        service: &'a dyn Service,
        invocation: Invocation,
        record: &'a Record,
        /// The caller asks how many calls of the method are wanted in one message.
        batches: bool,
        answer_to: Option<ReplyTo>,
    },
    /// Do not run it, and answer with this.
    Refuse {
        reply: Reply,
        fault: Fault,
        answer_to: Option<ReplyTo>,
        /// The method of a request that cannot be answered in time. `None` if there is another reason.
        shed: Option<&'a Record>,
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
    pub(crate) fn message(&self, reply: Reply) -> Message {
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
                may_batch: true,
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
    pub(crate) fn add_built_in(&mut self, service: &Arc<dyn Service>) {
        for method in service.descriptor().methods {
            let entry = Entry {
                service: Arc::clone(service),
                method,
                record: Arc::new(Record::new(service.descriptor().name, method.name)),
                may_batch: false,
            };
            self.methods.insert(method.name, entry);
        }
    }

    /// The services that were added, in their order; not what is built in.
    pub(crate) fn hosted(&self) -> &[Hosted] {
        &self.hosted
    }

    /// Decides about a delivery that was received so and could begin at this instant.
    ///
    /// # Errors
    ///
    /// Where it is not to be run, and nobody to be answered: its `reply_to` could be any queue.
    pub(crate) fn decide(
        &self,
        message: Message,
        redelivered: bool,
        received: Received,
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
        let came_before = redelivered
            || message.properties.dead_lettered.is_some()
            || message.properties.headers.get(RESENT_HEADER).is_some();
        Ok(match Request::from_message(message) {
            Ok(request) => self.decide_request(request, answer_to, redelivered, received, now, rules),
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
        redelivered: bool,
        rules: &Rules,
    ) -> Result<Decision<'static>, NoReplyAddress> {
        let properties = message.properties;
        // A worker with larger frames, or of another library, may have been able to read it. The
        // largest count stands for one that cannot be read, which says nothing of that.
        let dead = properties.dead_lettered;
        let came_before = redelivered || dead.is_some_and(|dead| dead.times < u32::MAX);
        let codec = match content::codec(&properties) {
            Ok(codec) => codec.unwrap_or(Codec::Text),
            Err(error) => error.readable_codec(),
        };
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
        Ok(Decision::refuse(codec, fault, answer_to, came_before))
    }

    /// As [`decide`](Self::decide), of a request that may be answered to.
    pub(crate) fn decide_request(
        &self,
        mut request: Request,
        answer_to: Option<ReplyTo>,
        redelivered: bool,
        received: Received,
        now: Instant,
        rules: &Rules,
    ) -> Decision<'_> {
        let delivered_before = redelivered || request.dead_lettered.is_some();
        let came_before = delivered_before || request.headers.get(RESENT_HEADER).is_some();
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
            may_batch,
        } = match self.find(request.method.as_ref()) {
            Ok(entry) => entry,
            Err(fault) => return Decision::refuse(codec, fault, answer_to, came_before),
        };
        if has_expired(&request) {
            let fault = Fault::new(FaultCode::Expired, "it expired in a queue and was dead-lettered");
            // A worker may have begun it before it expired, in the same queue or in another one.
            let was_delivered = redelivered || request.dead_lettered.is_some_and(|dead| dead.times > 0);
            let may_have_run = was_delivered || request.headers.get(RESENT_HEADER).is_some();
            return Decision::refuse(codec, fault, answer_to, may_have_run);
        }
        if delivered_before && let Some(reason) = rules.forbids_again(method, &request, redelivered) {
            return Decision::refuse(codec, interrupted(reason), answer_to, came_before);
        }
        if let Some(time_to_live) = request.time_to_live
            && let Some(fault) = rules.admit(time_to_live, received, now, record)
        {
            return Decision::refuse(codec, fault, answer_to, came_before).shed(record);
        }
        let context = Context::new(method.name, &mut request, received, redelivered);
        let invocation = Invocation::new(context, codec, request.arguments);
        Decision::Run {
            service: &**service,
            invocation,
            record,
            batches: request.batches && *may_batch,
            answer_to,
        }
    }

    /// How often a one-way request came back, counting this time, if it may run again and nothing
    /// but its workers count: it neither expires nor comes from a queue that counts. It may end its
    /// worker each time, so it must not come back forever.
    pub(crate) fn uncounted_returns(
        &self,
        message: &Message,
        redelivered: bool,
        rules: &Rules,
    ) -> Option<u32> {
        let properties = &message.properties;
        let is_unset = |name: &Option<ShortStr>| name.as_ref().is_none_or(|name| name.as_str().is_empty());
        let is_uncounted = redelivered
            && is_unset(&properties.reply_to)
            && properties.expiration.is_none()
            && delivery_count(&properties.headers).is_none()
            // Nobody but the user can send something in the user's name.
            && properties.user_id.is_none()
            && message.body.len() <= rules.max_sent_bytes.min(rules.max_accepted_bytes)
            && self.may_run_again(properties.kind.as_ref().filter(|name| !name.as_str().is_empty()));
        if !is_uncounted {
            return None;
        }
        let dead = properties.dead_lettered.unwrap_or_default();
        let returns = returns(&properties.headers)
            .saturating_add(dead.times)
            .saturating_add(1);
        let has_expired = dead.has_expired && dead.original_expiration.is_some();
        (returns < rules.max_deliveries && !has_expired).then_some(returns)
    }

    /// Whether a request of this method that came before may be run.
    pub(crate) fn may_run_again(&self, method: Option<&ShortStr>) -> bool {
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

    /// The fault to answer with if the caller gives up before the method would end.
    fn admit(
        &self,
        time_to_live: Duration,
        received: Received,
        now: Instant,
        record: &Record,
    ) -> Option<Fault> {
        let deadline = received.deadline(time_to_live)?;
        if deadline <= now {
            let fault = "the caller's time was up before the method could start";
            return Some(expired(fault, received));
        }
        let takes = record.pace.mean().filter(|_| self.admission)?;
        if fits(received, time_to_live, deadline, now, takes) {
            return None;
        }
        let left = deadline.saturating_duration_since(now);
        let fault = format!("the caller waits for {left:.0?} more, and the method takes {takes:.0?}");
        Some(expired(fault, received))
    }

    /// # Errors
    ///
    /// The fault to answer with in the place of a reply that is larger than may be sent.
    pub(crate) fn check_reply(&self, reply: &Reply) -> Result<(), Fault> {
        let (size, limit) = (reply.body.len(), self.max_sent_bytes);
        if size <= limit {
            return Ok(());
        }
        let message = format!(
            "the method ran, and its reply of {size} bytes is larger than the {limit} that may be sent"
        );
        Err(Fault::new(FaultCode::ReplyTooLarge, message))
    }

    /// Why a request that was delivered before, by its queue or another one, is not run again; `None`
    /// if it may be.
    fn forbids_again(
        &self,
        method: &MethodDescriptor,
        request: &Request,
        redelivered: bool,
    ) -> Option<&'static str> {
        if !method.is_idempotent {
            return Some("the method is not idempotent");
        }
        // It may be the request itself that ends its workers, so it must not come back for ever.
        let count = delivery_count(&request.headers);
        let elsewhere = request.dead_lettered.map_or(0, |dead| dead.times);
        if count.unwrap_or(0).saturating_add(elsewhere) >= self.max_deliveries {
            return Some("it has come back too often");
        }
        if redelivered && count.is_none() && !expires(request) {
            return Some(match returns(&request.headers) {
                0 => "it has no expiration, and its queue does not count how often it came back",
                _ => "it has come back too often",
            });
        }
        None
    }
}

/// How often a queue that counts delivered a request before; `None` if it does not count, or did not
/// deliver it before.
fn delivery_count(headers: &Headers) -> Option<u32> {
    let count = |name| {
        let count = headers.get(name)?.parse::<u64>().ok()?;
        Some(u32::try_from(count).unwrap_or(u32::MAX))
    };
    count(DELIVERY_COUNT).max(count(ACQUIRED_COUNT))
}

/// Whether the broker ends a request by itself. It does not end one that was dead-lettered.
fn expires(request: &Request) -> bool {
    request.time_to_live.is_some() && request.dead_lettered.is_none()
}

/// Whether a request's time was over before it came. A queue that keeps messages for a time gives a
/// one-way request up without that being its caller's wish: such queues delay requests, too.
fn has_expired(request: &Request) -> bool {
    request.dead_lettered.is_some_and(|dead| {
        dead.has_expired && (dead.original_expiration.is_some() || request.reply_to.is_some())
    })
}

/// The fault of a request that cannot be answered in time. The queue is as long as it was for this
/// request: a caller that tries again any sooner finds it so.
fn expired(reason: impl Into<String>, received: Received) -> Fault {
    let fault = Fault::new(FaultCode::Expired, reason);
    match received.waited.is_zero() {
        true => fault,
        false => fault.with_retry_after(received.waited),
    }
}

/// A fault may say that the method did not run; of a request that came before, nobody here knows that.
pub(crate) fn truthful(fault: Fault, came_before: bool) -> Fault {
    match fault.code.executed() {
        Executed::No if came_before => Fault {
            retry_after: fault.retry_after,
            ..interrupted(fault)
        },
        _ => fault,
    }
}

impl<'a> Decision<'a> {
    fn refuse(codec: Codec, fault: Fault, answer_to: Option<ReplyTo>, came_before: bool) -> Self {
        let fault = truthful(fault, came_before);
        Self::Refuse {
            reply: Reply::fault(codec, &fault),
            fault,
            answer_to,
            shed: None,
        }
    }

    /// A refusal of a request that cannot be answered in time.
    fn shed(mut self, record: &'a Record) -> Self {
        if let Self::Refuse { shed, .. } = &mut self {
            *shed = Some(record);
        }
        self
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

    use super::super::invocation::Answer;
    use super::*;
    use crate::describe::ServiceDescriptor;
    use crate::protocol::{DeadLettered, DeathReason, Properties, Property, RETURNS_HEADER, ReplyKind};

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
            .decide(message, redelivered, Received::at(now), now, &rules())
            .unwrap()
    }

    fn rules() -> Rules {
        Rules {
            reply_addresses: ReplyAddresses::default(),
            max_accepted_bytes: 10,
            max_sent_bytes: 10,
            max_deliveries: 3,
            admission: true,
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
        let refuse = |reply_to, redelivered| {
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
            Dispatcher::refuse_malformed(message, malformed, redelivered, &rules())
        };
        let address = ShortStr::from_static("amq.gen-1");
        let Ok(Decision::Refuse {
            reply,
            fault,
            answer_to: Some(to),
            shed: None,
        }) = refuse(Some(address.clone()), false)
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
            refuse(None, false),
            Ok(Decision::Refuse { answer_to: None, .. })
        ));
        assert!(refuse(Some(ShortStr::from_static("orders")), false).is_err());
        // Another worker may have been able to read it.
        let Ok(Decision::Refuse { fault, .. }) = refuse(Some(ShortStr::from_static("amq.gen-1")), true)
        else {
            panic!("it is not answered");
        };
        assert_eq!(fault.code, FaultCode::Interrupted);
    }

    #[test]
    fn what_cannot_be_answered_in_time_is_shed_and_nothing_else() {
        let store = store();
        let shed = |method, waited| {
            let message = Message {
                properties: request(method),
                body: Bytes::from_static(b"7"),
            };
            let now = Instant::now();
            let waited = Duration::from_millis(waited);
            let received = Received {
                waited,
                ..Received::at(now)
            };
            match store.decide(message, false, received, now, &rules()) {
                Ok(Decision::Refuse { shed, .. }) => shed.map(|record| record.method),
                _ => Some("nothing: it runs"),
            }
        };
        assert_eq!(shed("write", 1001), Some("write"));
        assert_eq!(shed("write", 999), Some("nothing: it runs"));
        assert_eq!(shed("erase", 1001), None);
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

    fn dead_letter(method: &'static str, reason: DeathReason, expiration: Option<Duration>) -> Properties {
        let mut dead = DeadLettered::default();
        dead.add(reason, 1, expiration);
        Properties {
            expiration: None,
            dead_lettered: Some(dead),
            ..request(method)
        }
    }

    fn answered(properties: Properties) -> Properties {
        Properties {
            reply_to: Some(ShortStr::from_static("amq.gen-1")),
            ..properties
        }
    }

    #[test]
    fn a_dead_letter_came_before() {
        use DeathReason::{DeliveryLimit, Other, Rejected};
        for reason in [Rejected, DeliveryLimit, Other] {
            let of = |method| dead_letter(method, reason, None);
            assert_eq!(refusal(decide(of("write"), false)), FaultCode::Interrupted);
            assert_eq!(refusal(decide(of("erase"), false)), FaultCode::Interrupted);
            let Decision::Run { invocation, .. } = decide(of("read"), false) else {
                panic!("it may run again");
            };
            assert!(invocation.context().redelivered());
            // Nothing would end it.
            assert_eq!(refusal(decide(of("read"), true)), FaultCode::Interrupted);
        }
    }

    #[test]
    fn the_deadline_of_a_dead_letter_is_at_most_its_first_time_to_live() {
        let time = Duration::from_secs(3);
        let properties = dead_letter("read", DeathReason::Rejected, Some(time));
        let Decision::Run { invocation, .. } = decide(properties, false) else {
            panic!("it may run again");
        };
        assert!(invocation.context().remaining().is_some_and(|left| left <= time));
    }

    #[test]
    fn a_dead_letter_that_expired_is_not_run() {
        let time = Some(Duration::from_secs(1));
        for method in ["read", "write"] {
            let expired = |time| dead_letter(method, DeathReason::Expired, time);
            assert_eq!(refusal(decide(expired(time), false)), FaultCode::Expired);
            assert_eq!(
                refusal(decide(answered(expired(None)), false)),
                FaultCode::Expired
            );
        }
        // A worker may have begun it before it expired.
        let mut delivered = dead_letter("write", DeathReason::DeliveryLimit, time);
        if let Some(dead) = &mut delivered.dead_lettered {
            dead.add(DeathReason::Expired, 1, None);
        }
        let mut resent = dead_letter("read", DeathReason::Expired, time);
        let name = ShortStr::from_static(RESENT_HEADER);
        resent.headers.insert(name, String::new());
        let again = dead_letter("read", DeathReason::Expired, time);
        for (properties, redelivered) in [(delivered, false), (resent, false), (again, true)] {
            assert_eq!(refusal(decide(properties, redelivered)), FaultCode::Interrupted);
        }
        // A queue that delays one-way requests.
        let delayed = |method| dead_letter(method, DeathReason::Expired, None);
        assert_eq!(run(decide(delayed("read"), false)), "read");
        assert_eq!(refusal(decide(delayed("write"), false)), FaultCode::Interrupted);
    }

    #[test]
    fn the_counts_of_all_queues_add_up() {
        let came = |dead_letters, count: &str| {
            let mut properties = dead_letter("read", DeathReason::Rejected, None);
            properties.dead_lettered.get_or_insert_default().add(
                DeathReason::DeliveryLimit,
                dead_letters,
                None,
            );
            let name = ShortStr::from_static(DELIVERY_COUNT);
            properties.headers.insert(name, count.to_owned());
            decide(properties, true)
        };
        assert_eq!(run(came(0, "1")), "read");
        assert_eq!(refusal(came(0, "2")), FaultCode::Interrupted);
        assert_eq!(refusal(came(1, "1")), FaultCode::Interrupted);
        assert_eq!(refusal(came(u32::MAX, "1")), FaultCode::Interrupted);
    }

    #[test]
    fn both_counts_of_a_quorum_queue_are_read() {
        let counted = |delivery: &str, acquired: &str| {
            let mut headers = Headers::default();
            headers.insert(ShortStr::from_static(DELIVERY_COUNT), delivery.to_owned());
            headers.insert(ShortStr::from_static(ACQUIRED_COUNT), acquired.to_owned());
            delivery_count(&headers)
        };
        assert_eq!(counted("1", "4"), Some(4));
        assert_eq!(counted("5", "4"), Some(5));
        assert_eq!(counted("many", "-1"), None);
        assert_eq!(counted("", "99999999999999"), Some(u32::MAX));
        assert_eq!(delivery_count(&Headers::default()), None);
    }

    #[test]
    fn a_one_way_request_that_nothing_counts_is_counted_by_its_workers() {
        let oneway = || Properties {
            expiration: None,
            ..request("read")
        };
        let returns = |properties, redelivered| {
            let message = Message {
                properties,
                body: Bytes::from_static(b"7"),
            };
            store().uncounted_returns(&message, redelivered, &rules())
        };
        let counted = |name, count: &str| {
            let mut properties = oneway();
            properties
                .headers
                .insert(ShortStr::from_static(name), count.to_owned());
            properties
        };
        assert_eq!(returns(oneway(), true), Some(1));
        assert_eq!(returns(counted(RETURNS_HEADER, "1"), true), Some(2));
        // The rules allow three deliveries.
        assert_eq!(returns(counted(RETURNS_HEADER, "2"), true), None);
        assert_eq!(
            refusal(decide(counted(RETURNS_HEADER, "2"), true)),
            FaultCode::Interrupted
        );
        assert_eq!(returns(oneway(), false), None);
        assert_eq!(returns(request("read"), true), None);
        assert_eq!(returns(answered(oneway()), true), None);
        assert_eq!(returns(counted(DELIVERY_COUNT, "1"), true), None);
        let of_user = Properties {
            user_id: Some(ShortStr::from_static("guest")),
            ..oneway()
        };
        assert_eq!(returns(of_user, true), None);
        let not_idempotent = Properties {
            expiration: None,
            ..request("write")
        };
        assert_eq!(returns(not_idempotent, true), None);
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
            let decided =
                dispatcher.decide(message(), false, Received::at(arrived), arrived + time, &rules());
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
        let decided = dispatcher.decide(message, false, Received::at(now), now, &rules());
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
    fn callers_are_not_told_to_batch_what_is_built_in_nor_is_it_hosted() {
        struct BuiltIn;

        impl Service for BuiltIn {
            fn descriptor(&self) -> &'static ServiceDescriptor {
                &crate::describe::BUILT_IN
            }

            fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
                Box::pin(async { invocation.answer(()) })
            }
        }

        let mut dispatcher = store();
        dispatcher.add_built_in(&(Arc::new(BuiltIn) as Arc<dyn Service>));
        let batches = |method| {
            let mut properties = request(method);
            let name = ShortStr::from_static(crate::protocol::BATCH_HEADER);
            properties.headers.insert(name, String::new());
            let message = Message {
                properties,
                body: Bytes::new(),
            };
            let now = Instant::now();
            match dispatcher
                .decide(message, false, Received::at(now), now, &rules())
                .unwrap()
            {
                Decision::Run { batches, .. } => batches,
                Decision::Refuse { fault, .. } => panic!("{fault}"),
            }
        };
        assert!(batches("read") && !batches("rpc.ping"));
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
