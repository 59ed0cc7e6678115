//! The methods that are served on a queue, and the decision whether a request runs. Pure: no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::admission::Received;
use super::context::Context;
use super::decision::{AdmittedRequest, Decision, ReplyTo, StreamRequest, interrupted};
use super::invocation::{Invocation, Service};
use super::method_record::MethodRecord;
use super::redelivery::{Rerun, expired_in_queue, may_have_begun};
use super::rules::{ForbiddenReplyAddress, Rules};
use crate::codec::Codec;
use crate::describe::{MethodDescriptor, ServiceDescriptor, is_built_in_name};
use crate::error::ServerError;
use crate::protocol::{
    DeadLettered, Fault, FaultCode, Malformed, Message, Properties, RESENT_HEADER, Request, RequestId,
    ShortStr, UnreadableRequest, content,
};

/// The methods that are served on one queue.
#[derive(Default)]
pub(crate) struct Dispatcher {
    methods: HashMap<&'static str, Entry, RandomState>,
    default: Option<Entry>,
    served: Vec<ServedService>,
}

/// An added service, and the records of its methods.
#[derive(Clone)]
pub(crate) struct ServedService {
    pub(crate) service: &'static ServiceDescriptor,
    pub(crate) records: Vec<Arc<MethodRecord>>,
}

#[derive(Clone)]
struct Entry {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    record: Arc<MethodRecord>,
    /// Whether callers may batch calls of the method.
    may_batch: bool,
}

impl Dispatcher {
    /// Adds the methods of a service. After an error, some of them may have been added.
    ///
    /// # Errors
    ///
    /// Returns an error if two methods on the queue have the same name or are both the default
    /// method, if a name begins with `rpc.`, or if a broadcast is `idempotent` or the default.
    pub(crate) fn add(&mut self, service: Arc<dyn Service>, queue: &str) -> Result<(), ServerError> {
        let descriptor = service.descriptor();
        let mut records = Vec::with_capacity(descriptor.methods.len());
        for method in descriptor.methods {
            if method.is_broadcast && (method.is_idempotent || method.is_default) {
                return Err(ServerError::InvalidBroadcast {
                    service: descriptor.name,
                    method: method.name,
                });
            }
            if is_built_in_name(method.name) {
                return Err(ServerError::ReservedMethod {
                    service: descriptor.name,
                    method: method.name,
                });
            }
            let entry = Entry {
                service: Arc::clone(&service),
                method,
                record: Arc::new(MethodRecord {
                    has_stream: method.has_stream(),
                    ..MethodRecord::new(descriptor.name, method.name)
                }),
                may_batch: !method.has_stream(),
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
        self.served.push(ServedService {
            service: descriptor,
            records,
        });
        Ok(())
    }

    /// Adds the built-in methods. Callers do not batch calls of these methods.
    pub(crate) fn add_built_in(&mut self, service: &Arc<dyn Service>) {
        for method in service.descriptor().methods {
            let entry = Entry {
                service: Arc::clone(service),
                method,
                record: Arc::new(MethodRecord::new(service.descriptor().name, method.name)),
                may_batch: false,
            };
            self.methods.insert(method.name, entry);
        }
    }

    /// Takes out the methods that are broadcasts. They are requested through the control exchange.
    pub(crate) fn take_broadcasts(&mut self) -> Self {
        let broadcasts = self.methods.extract_if(|_, entry| entry.method.is_broadcast);
        Self {
            methods: broadcasts.collect(),
            default: None,
            // The faults for other methods say where those are; see `unknown_method`.
            served: self.served.clone(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.methods.is_empty()
    }

    /// The services that were added, in this order, without the built-in one.
    pub(crate) fn served(&self) -> &[ServedService] {
        &self.served
    }

    /// Decides whether the method of a received message runs. `now` is when it could begin.
    ///
    /// # Errors
    ///
    /// Returns the `reply_to` if it must not get replies. The method must not run then.
    pub(crate) fn decide(
        &self,
        message: Message,
        redelivered: bool,
        received: Received,
        now: Instant,
        rules: &Rules,
    ) -> Result<Decision<'_>, ForbiddenReplyAddress> {
        let reply_to = read_reply_to(&message.properties, rules)?;
        // This worker or another one may be running the request, or may have run it.
        let may_have_run = redelivered
            || message.properties.dead_lettered.is_some()
            || message.properties.headers.get(RESENT_HEADER).is_some();
        Ok(match Request::from_message(message) {
            Ok(request) => self.decide_request(request, reply_to, redelivered, received, now, rules),
            Err(UnreadableRequest { codec, fault }) => Decision::refuse(codec, fault, reply_to, may_have_run),
        })
    }

    /// Refuses a message with malformed properties.
    ///
    /// # Errors
    ///
    /// Returns the `reply_to` if it must not get replies.
    pub(crate) fn refuse_malformed(
        message: &Message,
        malformed: Malformed,
        redelivered: bool,
        rules: &Rules,
    ) -> Result<Decision<'static>, ForbiddenReplyAddress> {
        // An earlier delivery may have reached a worker that could read it: one with larger frames,
        // or of another library. A count that cannot be read is taken as `u32::MAX`, and does not
        // show that there was such a delivery.
        let dead_lettered = message.properties.dead_lettered;
        let has_readable_count = |dead: DeadLettered| dead.non_expiry_deaths < u32::MAX;
        let may_have_run = redelivered || dead_lettered.is_some_and(has_readable_count);
        let fault = Fault::bad_request(format_args!("the request cannot be read: {malformed}"));
        Self::refuse(&message.properties, fault, may_have_run, rules)
    }

    /// Refuses a message with a fault, whatever it asks for.
    ///
    /// # Errors
    ///
    /// Returns the `reply_to` if it must not get replies.
    pub(crate) fn refuse(
        properties: &Properties,
        fault: Fault,
        may_have_run: bool,
        rules: &Rules,
    ) -> Result<Decision<'static>, ForbiddenReplyAddress> {
        let codec = match content::codec_of(properties) {
            Ok(codec) => codec.unwrap_or(Codec::Text),
            Err(error) => error.readable_codec(),
        };
        let reply_to = read_reply_to(properties, rules)?;
        Ok(Decision::refuse(codec, fault, reply_to, may_have_run))
    }

    /// Checks the size and the method of a broadcast, before it waits for its turn.
    ///
    /// # Errors
    ///
    /// Returns the fault of a broadcast that cannot run.
    pub(crate) fn check_broadcast(&self, message: &Message, rules: &Rules) -> Result<(), Fault> {
        rules.check_broadcast_size(message)?;
        let method = message.properties.kind.as_ref();
        self.find(method).map(drop)
    }

    /// Decides whether a request runs, like [`decide`](Self::decide). `reply_to` must have been
    /// checked. It may be `None` although a reply is expected; see [`AdmittedRequest::reply_to`].
    pub(crate) fn decide_request(
        &self,
        mut request: Request,
        reply_to: Option<ReplyTo>,
        redelivered: bool,
        received: Received,
        now: Instant,
        rules: &Rules,
    ) -> Decision<'_> {
        let delivered_before = redelivered || request.dead_lettered.is_some();
        let may_have_run = delivered_before || request.headers.get(RESENT_HEADER).is_some();
        let codec = request.codec;
        if let Err(fault) = rules.check_request_size(&request) {
            return Decision::refuse(codec, fault, reply_to, may_have_run);
        }
        let Entry {
            service,
            method,
            record,
            may_batch,
        } = match self.find(request.method.as_ref()) {
            Ok(entry) => entry,
            Err(fault) => return Decision::refuse(codec, fault, reply_to, may_have_run),
        };
        if expired_in_queue(&request) {
            // Not `may_have_run`: expiry alone does not show that a worker had the request.
            let fault = Fault::new(FaultCode::Expired, "it expired in a queue and was dead-lettered");
            return Decision::refuse(codec, fault, reply_to, may_have_begun(&request, redelivered));
        }
        let rerun = if delivered_before {
            rules.rerun(method, &request, redelivered)
        } else {
            Rerun::Allowed
        };
        let rerun_refusal = match rerun {
            Rerun::Allowed => None,
            Rerun::OnlyLayers(reason) => Some(reason),
            Rerun::Refused(reason) => {
                return Decision::refuse(codec, interrupted(reason), reply_to, may_have_run);
            }
        };
        if let Some(time_to_live) = request.time_to_live
            && let Err(fault) = rules.admit(time_to_live, received, now, record)
        {
            return Decision::refuse(codec, fault, reply_to, may_have_run).with_shed_method(record);
        }
        let stream = match stream_request(&request, method) {
            Ok(stream) => stream.map(Box::new),
            Err(fault) => return Decision::refuse(codec, fault, reply_to, may_have_run),
        };
        if stream.is_some() {
            // The limit holds only until the first message, so the method gets no deadline.
            request.time_to_live = None;
        }
        // Not the parameter `reply_to`, which is `None` for each request of a batch.
        let expects_reply = request.reply_to.is_some();
        let is_job = method.is_job() && !expects_reply;
        let context = Context::new(method.name, &mut request, received, redelivered);
        let mut invocation = Invocation::new(context, codec, request.arguments)
            .with_rerun_refusal(rerun_refusal)
            .with_max_reply_bytes(rules.max_sent_bytes);
        if method.has_stream() {
            invocation.count_items(record.label.clone());
        }
        Decision::Run(AdmittedRequest {
            service: &**service,
            invocation,
            record,
            can_be_cancelled: expects_reply && method.can_be_cancelled(),
            caller_waits: expects_reply && !method.is_oneway,
            is_job,
            asks_batch_size: request.asks_batch_size && *may_batch,
            stream,
            reply_to,
        })
    }

    /// Returns how many times a request without a reply address was redelivered, including this
    /// time, if only workers can count that and it may run again. `None` otherwise.
    pub(crate) fn worker_counted_redeliveries(
        &self,
        message: &Message,
        redelivered: bool,
        rules: &Rules,
    ) -> Option<u32> {
        let method = message.properties.kind.as_ref();
        let is_job = self.job(method).is_some();
        let redeliveries = rules.redeliveries_if_only_workers_count(message, redelivered, is_job)?;
        self.is_idempotent(method).then_some(redeliveries)
    }

    /// Returns the method of a request if the method is a job: one-way and `idempotent`.
    pub(crate) fn job(&self, method: Option<&ShortStr>) -> Option<&'static MethodDescriptor> {
        let entry = self.find(method).ok()?;
        entry.method.is_job().then_some(entry.method)
    }

    /// The methods that are jobs: one-way and `idempotent`.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &'static MethodDescriptor> {
        let methods = self.served.iter().flat_map(|served| served.service.methods);
        methods.filter(|method| method.is_job())
    }

    /// Whether any method replies with a stream, or receives one.
    pub(crate) fn has_streams(&self) -> bool {
        let mut methods = self.served.iter().flat_map(|served| served.service.methods);
        methods.any(MethodDescriptor::has_stream)
    }

    /// Whether any method receives a stream from its caller.
    pub(crate) fn has_incoming(&self) -> bool {
        let mut methods = self.served.iter().flat_map(|served| served.service.methods);
        methods.any(|method| method.incoming.is_some())
    }

    /// Whether a one-way request for one of the methods, a job or not, may be in the queue.
    pub(crate) fn has_oneway(&self) -> bool {
        let mut methods = self.served.iter().flat_map(|served| served.service.methods);
        methods.any(|method| method.is_oneway && !method.is_broadcast)
    }

    /// Whether any method has a reply that goes to one caller, so that the caller can cancel the
    /// call.
    pub(crate) fn has_replies(&self) -> bool {
        let mut methods = self.served.iter().flat_map(|served| served.service.methods);
        methods.any(|method| !method.is_oneway && !method.is_broadcast)
    }

    /// Returns how many calls of a method to put into one batch. `None` before its first run, if
    /// its calls are not batched, or if there is no such method.
    pub(crate) fn batch_size(&self, method: Option<&ShortStr>) -> Option<u16> {
        let entry = self.find(method).ok().filter(|entry| entry.may_batch)?;
        entry.record.recent_duration.batch_size()
    }

    /// Whether the method exists and is `idempotent`.
    pub(crate) fn is_idempotent(&self, method: Option<&ShortStr>) -> bool {
        self.find(method).is_ok_and(|entry| entry.method.is_idempotent)
    }

    /// Returns a method by its name, or the default one if there is no name. An empty string counts
    /// as no name: some of RabbitMQ's clients send one for a property that is not set.
    fn find(&self, method: Option<&ShortStr>) -> Result<&Entry, Fault> {
        match method.filter(|name| !name.as_str().is_empty()) {
            Some(name) => self
                .methods
                .get(name.as_str())
                .ok_or_else(|| self.unknown_method(name.as_str())),
            None => self.default.as_ref().ok_or_else(|| {
                Fault::new(
                    FaultCode::UnknownMethod,
                    "the request names no method, and there is no default one here",
                )
            }),
        }
    }

    /// The fault of a request for a method that is not here.
    fn unknown_method(&self, name: &str) -> Fault {
        let known = self.served.iter().find_map(|served| served.service.method(name));
        let reason = match known {
            None => return Fault::unknown_method(name),
            Some(MethodDescriptor {
                is_broadcast: true, ..
            }) => "it is a broadcast, whose requests go through the exchange rpc.control",
            Some(_) => "it is not a broadcast: its requests go to the queue",
        };
        Fault::new(
            FaultCode::UnknownMethod,
            format!("cannot run {name:?} here: {reason}"),
        )
    }
}

/// Returns what the caller of a stream asks for. `None` if the request has no stream. Fails if the
/// method does not receive the stream, or if the caller sent no [`RequestId`].
fn stream_request(request: &Request, method: &MethodDescriptor) -> Result<Option<StreamRequest>, Fault> {
    let credit = request.credit.filter(|_| method.is_streaming);
    let sends_items = request.sends_items;
    if sends_items && method.incoming.is_none() {
        let reason =
            "the method receives no stream, and its caller sends one: their versions of the service differ";
        return Err(Fault::bad_request(reason));
    }
    if credit.is_none() && !sends_items {
        return Ok(None);
    }
    let correlation_id = request.correlation_id.as_ref();
    let Some(id) = correlation_id.and_then(RequestId::of_correlation_id) else {
        let reason = "the correlation_id is no UUID, and the caller of a stream must send one";
        return Err(Fault::bad_request(reason));
    };
    Ok(Some(StreamRequest {
        id: id.uuid(),
        credit,
        sends_items,
        is_resent: request.headers.get(RESENT_HEADER).is_some(),
    }))
}

/// Returns where the reply to a message goes. `None` if its sender expects no reply. Fails if the
/// `reply_to` must not get replies.
fn read_reply_to(properties: &Properties, rules: &Rules) -> Result<Option<ReplyTo>, ForbiddenReplyAddress> {
    let Some(address) = &properties.reply_to else {
        return Ok(None);
    };
    rules.check_reply_address(address)?;
    Ok((!address.as_str().is_empty()).then(|| ReplyTo {
        address: address.clone(),
        correlation_id: properties.correlation_id.clone(),
        content_type: content::reply_content_type(properties),
    }))
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::super::decision::Refusal;
    use super::super::fixtures::{
        Store, admitted, decide, message, refusal, refused, request, rules, runs, store, with_reply_to,
    };
    use super::super::invocation::Answer;
    use super::*;
    use crate::protocol::{MAX_BROADCAST_BYTES, Property};

    /// A service with any methods.
    struct Described(&'static ServiceDescriptor);

    impl Service for Described {
        fn descriptor(&self) -> &'static ServiceDescriptor {
            self.0
        }

        fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
            Box::pin(async { invocation.answer(()) })
        }
    }

    #[test]
    fn a_malformed_request_is_answered_if_its_reply_address_can_be_read() {
        let refuse = |reply_to, redelivered| {
            let message = message(Properties {
                reply_to,
                correlation_id: Some(ShortStr::from_static("7")),
                content_type: Some(ShortStr::from_static("application/json")),
                ..request("write")
            });
            let malformed = Malformed::NotUtf8(Property::MessageId);
            Dispatcher::refuse_malformed(&message, malformed, redelivered, &rules()).map(refusal)
        };
        let address = ShortStr::from_static("amq.gen-1");
        let Refusal {
            reply,
            fault,
            reply_to,
            shed_method,
        } = refuse(Some(address.clone()), false).unwrap();
        let to = reply_to.expect("it is answered");
        assert_eq!(
            (to.address, to.correlation_id),
            (address.clone(), Some(ShortStr::from_static("7")))
        );
        assert_eq!(
            fault,
            Fault::bad_request("the request cannot be read: its message_id is not UTF-8")
        );
        assert_eq!((reply.codec, reply.read_fault()), (Codec::Json, fault));
        assert!(shed_method.is_none());

        assert!(refuse(None, false).unwrap().reply_to.is_none());
        assert!(refuse(Some(ShortStr::from_static("orders")), false).is_err());
        // Another worker may have been able to read it.
        let fault = refuse(Some(address), true).unwrap().fault;
        assert_eq!(fault.code, FaultCode::Interrupted);
    }

    #[test]
    fn a_batched_request_that_expects_a_reply_is_no_job() {
        static MAIL: ServiceDescriptor = ServiceDescriptor::new(
            "Mail",
            "mail",
            &[MethodDescriptor::new("send", &[]).oneway().idempotent()],
        );
        let mut dispatcher = Dispatcher::default();
        dispatcher.add(Arc::new(Described(&MAIL)), "mail").unwrap();
        let is_job = |properties| {
            let request = Request::from_message(message(properties)).unwrap();
            let now = Instant::now();
            let received = Received::at(now);
            // Without an address for a message of its own.
            let decision = dispatcher.decide_request(request, None, false, received, now, &rules());
            admitted(decision).is_job
        };
        assert!(is_job(request("send")));
        assert!(!is_job(with_reply_to(request("send"))));
    }

    #[test]
    fn a_request_without_a_method_runs_the_default_one() {
        assert_eq!(runs(decide(Properties::default(), false)), "read");
        assert_eq!(runs(decide(request(""), false)), "read");
        assert_eq!(runs(decide(request("write"), false)), "write");
        assert_eq!(refused(decide(request("erase"), false)), FaultCode::UnknownMethod);
    }

    #[test]
    fn a_broadcast_is_neither_idempotent_nor_the_default() {
        static IDEMPOTENT: ServiceDescriptor = ServiceDescriptor::new(
            "Cache",
            "cache",
            &[MethodDescriptor::new("clear", &[]).broadcast().idempotent()],
        );
        static DEFAULT: ServiceDescriptor = ServiceDescriptor::new(
            "Cache",
            "cache",
            &[MethodDescriptor::new("clear", &[]).broadcast().default_method()],
        );

        for descriptor in [&IDEMPOTENT, &DEFAULT] {
            let added = Dispatcher::default().add(Arc::new(Described(descriptor)), "cache");
            assert!(
                matches!(added, Err(ServerError::InvalidBroadcast { method: "clear", .. })),
                "{added:?}"
            );
        }
    }

    #[test]
    fn what_a_broadcast_cannot_be_is_refused_before_it_waits() {
        let dispatcher = store();
        let check = |method, size| {
            let mut message = message(request(method));
            message.body = vec![0; size].into();
            dispatcher
                .check_broadcast(&message, &rules())
                .map_err(|fault| fault.code)
        };
        assert_eq!(check("read", 10), Ok(()));
        assert_eq!(check("erase", 10), Err(FaultCode::UnknownMethod));
        let limit = rules().max_accepted_bytes.min(MAX_BROADCAST_BYTES);
        assert_eq!(check("read", limit + 1), Err(FaultCode::TooLarge));
    }

    #[test]
    fn broadcasts_are_requested_apart_from_other_methods_and_run_once() {
        static CACHE: ServiceDescriptor = ServiceDescriptor::new(
            "Cache",
            "cache",
            &[
                MethodDescriptor::new("get", &[]),
                MethodDescriptor::new("clear", &[]).broadcast(),
            ],
        );
        struct Cache;
        impl Service for Cache {
            fn descriptor(&self) -> &'static ServiceDescriptor {
                &CACHE
            }

            fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
                Box::pin(async { invocation.answer(()) })
            }
        }

        let mut calls = Dispatcher::default();
        calls.add(Arc::new(Cache), "cache").unwrap();
        let broadcasts = calls.take_broadcasts();
        assert!(!broadcasts.is_empty() && calls.take_broadcasts().is_empty());
        let decide = |dispatcher, method, redelivered| {
            let dispatcher: &Dispatcher = dispatcher;
            let (message, now) = (message(request(method)), Instant::now());
            dispatcher
                .decide(message, redelivered, Received::at(now), now, &rules())
                .map(|decision| match decision {
                    Decision::Run(_) | Decision::Cancelled(_) => None,
                    Decision::Refuse(refusal) => Some(refusal.fault),
                })
                .unwrap()
        };
        assert_eq!(decide(&calls, "get", false), None);
        assert_eq!(decide(&broadcasts, "clear", false), None);
        let code = |fault: Option<Fault>| fault.unwrap().code;
        assert_eq!(code(decide(&broadcasts, "clear", true)), FaultCode::Interrupted);
        for (dispatcher, method) in [(&calls, "clear"), (&broadcasts, "get"), (&broadcasts, "erase")] {
            assert_eq!(code(decide(dispatcher, method, false)), FaultCode::UnknownMethod);
        }
    }

    #[test]
    fn a_request_with_a_forbidden_reply_address_does_not_run() {
        let mut properties = request("read");
        properties.reply_to = Some(ShortStr::from_static("payments"));
        let message = message(properties);
        let dispatcher = store();
        let now = Instant::now();
        let decided = dispatcher.decide(message, false, Received::at(now), now, &rules());
        assert!(matches!(decided, Err(ForbiddenReplyAddress(address)) if address.as_str() == "payments"));
    }

    #[test]
    fn an_unknown_content_type_is_refused_in_text() {
        let mut properties = request("read");
        properties.content_type = Some(ShortStr::from_static("image/png"));
        let reply = refusal(decide(properties, false)).reply;
        assert_eq!(reply.codec, Codec::Text);
    }

    #[test]
    fn the_names_of_built_in_methods_are_reserved() {
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
    fn built_in_methods_are_neither_batched_nor_listed() {
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
            let message = message(properties);
            let now = Instant::now();
            let decided = dispatcher.decide(message, false, Received::at(now), now, &rules());
            admitted(decided.unwrap()).asks_batch_size
        };
        assert!(batches("read") && !batches("rpc.ping"));
        let served: Vec<_> = dispatcher
            .served()
            .iter()
            .map(|served| served.service.name)
            .collect();
        assert_eq!(served, ["Store"]);
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
