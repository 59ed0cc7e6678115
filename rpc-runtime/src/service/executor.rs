//! Executes requests, whether they come from a queue, from the control exchange or from the same
//! process.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::admission::Received;
use super::cancellation::Cancellations;
use super::context::{CallerGone, Context, with_ambient_deadline};
use super::decision::{AdmittedRequest, Decision, Refusal, ReplyTo, replace_if_may_have_run};
use super::dispatcher::Dispatcher;
use super::invocation::{Answer, Invocation};
use super::method_record::MethodRecord;
use super::request_log::{RequestLabel, RequestLog};
use super::rules::{ForbiddenReplyAddress, Rules};
use super::stats::Tally;
use crate::codec::Codec;
use crate::protocol::{Executed, Fault, FaultCode, Message, Reply, ReplyKind, Request, RequestId};
use crate::telemetry::{Event, Outcome, RequestEnd, RequestInfo, RequestSpan, count};

/// How long a method that can be cancelled may run after its deadline. Its caller cancels it at the
/// deadline, if it can. The clocks of both may differ a little.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);

/// Where the requests of an [`Executor`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestSource {
    /// Callers of a request queue, or of its broadcasts. Requests are counted, and refusals are
    /// logged as warnings.
    Queue,
    /// Discovery. Anyone may ask, so refusals are logged for debugging only.
    Discovery,
    /// A client in the same process. It gets each refusal itself, so what is refused before its
    /// method begins is not logged.
    InProcess,
}

/// Decides whether requests run, and runs their methods.
pub(crate) struct Executor {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) rules: Rules,
    pub(crate) log: RequestLog,
    source: RequestSource,
    /// The calls that their callers have cancelled.
    cancellations: Arc<Cancellations>,
}

/// The result of a request.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) reply: Reply,
    /// See [`AdmittedRequest::reply_to`].
    pub(crate) reply_to: Option<ReplyTo>,
    /// How many calls of the method to put into one batch, or 0 if that is not known yet. `None` if
    /// the caller is not to be told.
    pub(crate) batch_size: Option<u16>,
    /// Whether the worker or one of its layers refused the request, so that the method did not run
    /// for this delivery. If no reply is expected, such a request is rejected, or is moved to
    /// another queue if its queue has jobs.
    pub(crate) is_refused: bool,
    /// Whether the call was cancelled, before its method began or while it ran. Then no reply is
    /// sent.
    pub(crate) is_cancelled: bool,
}

/// The result of a method, or of a layer around it.
pub(crate) struct RunResult {
    pub(crate) reply: Reply,
    pub(crate) outcome: Outcome,
    /// Whether the method may have run: its arguments could be read, and no layer refused the
    /// request. Also `true` if a layer answered it without the method.
    pub(crate) may_have_run: bool,
    /// Whether a layer answered it without the method.
    pub(crate) is_from_layer: bool,
    /// Whether the call was cancelled while the method ran; see [`CallerGone::Cancelled`].
    pub(crate) is_cancelled: bool,
}

impl RunResult {
    /// The result of a method that may have run, and whose reply is this fault.
    fn of_fault(invocation: &Invocation, fault: &Fault) -> Self {
        Self {
            reply: Reply::fault(invocation.codec(), fault),
            outcome: Outcome::of_fault(&fault.code),
            may_have_run: true,
            is_from_layer: false,
            is_cancelled: false,
        }
    }

    /// The result of a method that was dropped because its caller no longer waits.
    fn of_dropped(invocation: &Invocation, gone: CallerGone) -> Self {
        // If the call was cancelled, this is not sent.
        let reason = "its deadline passed before the method ended";
        Self {
            outcome: Outcome::Cancelled,
            is_cancelled: gone == CallerGone::Cancelled,
            ..Self::of_fault(invocation, &Fault::new(FaultCode::Abandoned, reason))
        }
    }

    fn as_request_end(&mut self) -> RequestEnd<'_> {
        RequestEnd {
            outcome: self.outcome,
            may_have_run: self.may_have_run,
            headers: &mut self.reply.headers,
        }
    }
}

impl Executor {
    pub(crate) fn new(dispatcher: Dispatcher, rules: Rules, log: RequestLog, source: RequestSource) -> Self {
        Self {
            dispatcher,
            rules,
            log,
            source,
            cancellations: Arc::default(),
        }
    }

    /// Lets callers cancel their calls through `cancellations`.
    pub(crate) fn with_cancellations(self, cancellations: Arc<Cancellations>) -> Self {
        Self {
            cancellations,
            ..self
        }
    }

    /// The calls that their callers have cancelled.
    pub(crate) fn cancellations(&self) -> &Arc<Cancellations> {
        &self.cancellations
    }

    pub(crate) fn source(&self) -> RequestSource {
        self.source
    }

    /// Decides whether the method of a message runs, like [`Dispatcher::decide`]. It does not if
    /// the call was cancelled.
    pub(crate) fn decide(
        &self,
        message: Message,
        redelivered: bool,
        received: Received,
        now: Instant,
    ) -> Result<Decision<'_>, ForbiddenReplyAddress> {
        let decided = self
            .dispatcher
            .decide(message, redelivered, received, now, &self.rules);
        decided.map(|decision| self.unless_cancelled(decision, now))
    }

    /// Like [`decide`](Self::decide), for a request whose reply is no message of its own: it leaves
    /// in a batch, or stays in the process. See [`Dispatcher::decide_request`].
    pub(crate) fn decide_request(
        &self,
        request: Request,
        redelivered: bool,
        received: Received,
        now: Instant,
    ) -> Decision<'_> {
        let decision = self
            .dispatcher
            .decide_request(request, None, redelivered, received, now, &self.rules);
        self.unless_cancelled(decision, now)
    }

    /// Returns `Cancelled` instead of `Run` if the caller has cancelled the call. Otherwise, lets
    /// the caller cancel it later. Changes nothing if the caller cannot cancel the call with a
    /// message.
    fn unless_cancelled<'a>(&self, decision: Decision<'a>, now: Instant) -> Decision<'a> {
        match decision {
            Decision::Run(mut admitted) if admitted.caller_waits && self.serves_queue() => {
                let context = admitted.invocation.context_mut();
                let id = || context.request_id().map(RequestId::uuid);
                if self.cancellations.is_cancelled(id, now) {
                    return Decision::Cancelled(admitted.record);
                }
                context.allow_cancellation(&self.cancellations);
                Decision::Run(admitted)
            }
            decision => decision,
        }
    }

    /// Runs the method of a request unless the request is refused or cancelled. Counts and logs the
    /// request as its source asks, and returns what to send.
    ///
    /// `queue` is its queue in spans and metrics. `begun` is when the decision was made: the
    /// duration of the method counts from then.
    // Not an `async fn`, whose future would have room for the decision three times: as an argument,
    // as a variable, and as the request in it.
    #[allow(clippy::manual_async_fn)]
    pub(crate) fn execute(
        &self,
        queue: &str,
        mut decision: Decision<'_>,
        label: &RequestLabel,
        begun: Instant,
    ) -> impl Future<Output = Response> + Send {
        async move {
            let admitted = match decision {
                Decision::Run(ref mut admitted) => admitted,
                Decision::Refuse(refusal) => return self.finish_refused(queue, refusal, label),
                Decision::Cancelled(record) => return self.finish_cancelled(queue, record),
            };
            let in_flight = self.serves_queue().then(|| admitted.record.stats.begin());
            let result = self.run(queue, admitted).await;
            // The request must not count as in flight and as ended at the same time.
            drop(in_flight);
            // A tally counts its requests when it is dropped, here at the end of the statement.
            let mut response = self.finish(
                queue,
                &mut Tally::default(),
                admitted.record,
                begun.elapsed(),
                result,
            );
            if !admitted.asks_batch_size {
                response.batch_size = None;
            }
            response.reply_to = admitted.reply_to.take();
            response
        }
    }

    /// Returns what to send for a request that is refused. Counts and logs it as its source asks.
    pub(crate) fn finish_refused(&self, queue: &str, refusal: Refusal<'_>, label: &RequestLabel) -> Response {
        let Refusal {
            reply,
            fault,
            reply_to,
            shed_method,
        } = refusal;
        match self.source {
            RequestSource::Queue => {
                if let Some(record) = shed_method {
                    record.stats.count_shed();
                }
                let code = fault.code.known_str().unwrap_or("other");
                count(Event::RequestRefused { queue, code });
                self.log.refused(&fault, label);
            }
            RequestSource::Discovery => self.log.refused_discovery(&fault),
            RequestSource::InProcess => {}
        }
        Response {
            reply,
            reply_to,
            batch_size: None,
            is_refused: true,
            is_cancelled: false,
        }
    }

    /// Counts a request whose method does not run because its caller has cancelled the call.
    /// Returns a response that is not sent.
    pub(crate) fn finish_cancelled(&self, queue: &str, record: &MethodRecord) -> Response {
        record.stats.count_cancelled();
        count(Event::RequestRefused {
            queue,
            code: "cancelled",
        });
        Response {
            reply: Reply::new(ReplyKind::Result, Codec::Text, Bytes::new()),
            reply_to: None,
            batch_size: None,
            is_refused: false,
            is_cancelled: true,
        }
    }

    /// Runs the method of a request, with the layers around it, in a span if spans are collected. A
    /// panic becomes the fault `panicked`.
    pub(crate) async fn run(&self, queue: &str, request: &AdmittedRequest<'_>) -> RunResult {
        let AdmittedRequest {
            invocation, record, ..
        } = request;
        let running = self.run_without_span(request);
        let context = invocation.context();
        let span = RequestSpan::new(RequestInfo {
            method: record.label.clone(),
            queue,
            correlation_id: context.correlation_id(),
            queue_time: context.queue_time(),
            bytes: invocation.bytes(),
            headers: context.headers(),
            attempt: context.attempt(),
            first_attempt: context.first_attempt_trace(),
            items: invocation.item_flow(),
        });
        match span {
            None => running.await,
            // Boxed, so that the future stays small when spans are not collected.
            Some(span) => Box::pin(span.run(running, RunResult::as_request_end)).await,
        }
    }

    /// Counts a request whose method, or a layer around it, ended after `took`. Returns what to
    /// send. The response has no `reply_to` yet, and it has a `batch_size` even if the caller does
    /// not ask for it. `tally` may be shared by the requests of one batch.
    pub(crate) fn finish<'a>(
        &self,
        queue: &str,
        tally: &mut Tally<'a>,
        record: &'a MethodRecord,
        took: Duration,
        result: RunResult,
    ) -> Response {
        let RunResult {
            reply,
            outcome,
            may_have_run,
            is_from_layer,
            is_cancelled,
        } = result;
        if self.serves_queue() {
            if may_have_run {
                tally.add(&record.stats, took, outcome);
                // Many answers of layers would make the method look instant, and callers would send
                // more calls than this worker can run.
                if !is_from_layer && shows_duration(outcome, took, record) {
                    record.recent_duration.record(took);
                }
            } else {
                let code = outcome.as_str();
                count(Event::RequestRefused { queue, code });
            }
        }
        Response {
            reply,
            reply_to: None,
            batch_size: Some(record.recent_duration.batch_size().unwrap_or(0)),
            is_refused: !may_have_run,
            is_cancelled,
        }
    }

    /// Whether the requests come from a queue or are its broadcasts. Only these are counted, and
    /// only these can be cancelled by messages: a client in the same process drops the method
    /// itself, and nobody cancels discovery.
    fn serves_queue(&self) -> bool {
        self.source == RequestSource::Queue
    }

    /// Like [`run`](Self::run), without a span. If the caller is gone and the method can be
    /// cancelled, drops the method.
    async fn run_without_span(&self, request: &AdmittedRequest<'_>) -> RunResult {
        let AdmittedRequest {
            service,
            invocation,
            can_be_cancelled,
            is_job,
            ..
        } = request;
        let context = invocation.context();
        // `handle` is called within the future, so that a panic before it returns is caught too.
        let handling = with_ambient_deadline(context.tokio_deadline(), async {
            service.handle(invocation).await
        });
        let running = async {
            if *can_be_cancelled && self.serves_queue() {
                unless_caller_gone(handling, context).await
            } else {
                Ok(handling.await)
            }
        };
        let handled = match AssertUnwindSafe(running).catch_unwind().await {
            Ok(Ok(handled)) => handled,
            Ok(Err(gone)) => return RunResult::of_dropped(invocation, gone),
            Err(_panic) => {
                // The panic hook gets the panic's message. The caller must not see it.
                let message = format!("the method {:?} panicked", invocation.method());
                let fault = Fault::new(FaultCode::Panicked, message);
                self.log.failed(&fault, invocation);
                return RunResult::of_fault(invocation, &fault);
            }
        };
        match handled {
            Ok(answer) => self.result_of_answer(invocation, answer),
            Err(fault) => {
                let may_have_run = invocation.may_run() && fault.code.executed() != Executed::No;
                // A job is tried again, whether or not an earlier delivery of it ran.
                let may_have_run_before = !is_job && context.may_have_run_before();
                let fault = replace_if_may_have_run(fault, may_have_run_before);
                self.log.failed(&fault, invocation);
                RunResult {
                    may_have_run,
                    ..RunResult::of_fault(invocation, &fault)
                }
            }
        }
    }

    /// Returns the result of a method or layer that answered. A reply that is too large is replaced
    /// with a fault.
    fn result_of_answer(&self, invocation: &Invocation, answer: Answer) -> RunResult {
        let Answer { reply, is_from_layer } = answer;
        match self.rules.check_reply_size(&reply) {
            Ok(()) => RunResult {
                outcome: Outcome::of_answer(&reply),
                reply,
                may_have_run: true,
                is_from_layer,
                is_cancelled: false,
            },
            Err(too_large) => {
                self.log.too_large(reply.body.len(), self.rules.max_sent_bytes);
                RunResult {
                    is_from_layer,
                    ..RunResult::of_fault(invocation, &too_large)
                }
            }
        }
    }
}

/// Whether a run shows how long the method takes. A stream lasts as long as its caller reads or
/// sends. A method that was dropped would have taken longer still, so its run counts only if it
/// took at least the recent mean.
fn shows_duration(outcome: Outcome, took: Duration, record: &MethodRecord) -> bool {
    let was_dropped = outcome == Outcome::Cancelled;
    let reaches_mean = || record.recent_duration.mean().is_none_or(|mean| took >= mean);
    !record.has_stream && (!was_dropped || reaches_mean())
}

/// Runs a method until it ends or its caller no longer waits. Then the method is dropped.
async fn unless_caller_gone<T>(method: impl Future<Output = T>, context: &Context) -> Result<T, CallerGone> {
    let mut method = pin!(method);
    // Most methods end at their first poll. For the others, the wait for the caller is boxed, so
    // that this future stays small.
    let mut wait = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = method.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let caller_gone = wait.get_or_insert_with(|| Box::pin(context.caller_gone(DEADLINE_GRACE)));
        caller_gone.as_mut().poll(cx).map(Err)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use tower::layer::layer_fn;
    use tower::{Service as _, service_fn};

    use super::super::fixtures::{Store, message, request, rules, store};
    use super::super::invocation::Answer;
    use super::super::middleware::{Handler, HandlerLayers, IncomingCall};
    use super::*;
    use crate::codec::Codec;
    use crate::protocol::ReplyKind;

    #[test]
    fn a_refusal_does_not_change_the_recent_duration_of_a_method() {
        let log = RequestLog::new("q");
        let executor = Executor::new(store(), rules(), log, RequestSource::Queue);
        let record = MethodRecord::new("Store", "write");
        let finish = |took, outcome, may_have_run| {
            let reply = Reply::fault(Codec::Json, &Fault::new(FaultCode::Rejected, ""));
            let result = RunResult {
                reply,
                outcome,
                may_have_run,
                is_from_layer: false,
                is_cancelled: false,
            };
            executor.finish("q", &mut Tally::default(), &record, took, result)
        };
        let (slow, instant) = (Duration::from_millis(50), Duration::from_micros(1));
        assert_eq!(finish(slow, Outcome::Ok, true).batch_size, Some(1));
        for _ in 0..200 {
            let response = finish(instant, Outcome::Fault("rejected"), false);
            assert_eq!((response.batch_size, response.is_refused), (Some(1), true));
        }
        let stats = record.stats.snapshot("Store", "write");
        assert_eq!((stats.calls, stats.failures, stats.mean()), (1, 0, slow));
    }

    #[tokio::test]
    async fn an_answer_of_a_layer_is_no_run_of_the_method() {
        let mut layers = HandlerLayers::default();
        layers.push(layer_fn(|inner: Handler| {
            service_fn(
                move |call: IncomingCall| -> BoxFuture<'static, Result<Answer, Fault>> {
                    match call.method() {
                        "read" => {
                            let reply = Reply::new(ReplyKind::Result, Codec::Json, "1".into());
                            Box::pin(async { Ok(Answer::new(reply)) })
                        }
                        _ => inner.clone().call(call),
                    }
                },
            )
        }));
        let mut dispatcher = Dispatcher::default();
        dispatcher
            .add(layers.service_wrapper()(Arc::new(Store)), "q")
            .unwrap();
        let executor = Executor::new(dispatcher, rules(), RequestLog::new("q"), RequestSource::Queue);
        for method in ["read", "write"] {
            let (properties, now) = (request(method), Instant::now());
            let label = RequestLabel::of(&properties);
            let decision = executor.decide(message(properties), false, Received::at(now), now);
            executor.execute("q", decision.unwrap(), &label, now).await;
        }
        let records = &executor.dispatcher.served()[0].records;
        let has_mean = |record: &Arc<MethodRecord>| record.recent_duration.mean().is_some();
        assert!(!has_mean(&records[0]) && has_mean(&records[1]));
        assert_eq!(records[0].stats.snapshot("Store", "read").calls, 1);
    }
}
