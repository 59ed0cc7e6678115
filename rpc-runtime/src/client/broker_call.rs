//! Runs one call through a broker, from its first request to its outcome.

use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Sleep, sleep, sleep_until};

use super::call_progress::{CallProgress, PublishFailure};
use super::control_messages::AbandonedCall;
use super::failures::{broker_error, maybe_executed, no_server_error, queue_gone_error, refused_error};
use super::in_flight_call::{CallEvent, InFlightCall};
use super::in_flight_calls::InFlightGuard;
use super::plan::CallPlan;
use super::queued_request::{PendingConfirm, QueuedRequest};
use super::received_reply::{ReceivedReply, check_reply, empty_reply};
use super::resend::{self, ReplyEpoch, ResendDecision};
use super::session::Session;
use super::session_handle::SessionHandle;
use super::streaming::{ItemInbox, MAX_SILENCE, Overdue};
use super::time_limit::TimeLimit;
use crate::error::{BrokerError, CallError};
use crate::protocol::{Executed, Fault, FaultCode, Reply};
use crate::transport::Published;

/// How long a call whose queue does not exist waits before it sends its request again.
const NO_SERVER_DELAY: Duration = Duration::from_millis(100);

/// How a call ends.
type Outcome = Result<Reply, CallError>;

/// Continues the call, or ends it.
type Step<T> = ControlFlow<Outcome, T>;

/// A call through a broker. If it is dropped without a reply, its request is withdrawn, or
/// cancelled if it was sent. A one-way request that was sent is not cancelled.
///
/// Rarely needed steps are boxed futures, so that they take no memory in other calls.
pub(super) struct BrokerCall<'a> {
    session_handle: &'a SessionHandle,
    progress: CallProgress<'a>,
    time: &'a TimeLimit,
    /// The session of the last request, or the one that is watched if this attempt sends none
    /// because another attempt has begun the stream. `None` at first.
    last_session: Option<Arc<Session>>,
}

/// What a call does after an event.
enum Next {
    /// Wait for another event.
    Wait,
    /// Send the request again, in the current session.
    Resend,
    /// Send the request again, in a session other than that of the last request.
    ResendInNewSession,
    /// End the call, or send the request again later: the broker did not confirm it.
    HandleFailure(Box<Published>),
    /// Wait for the end of the stream, which has begun.
    AwaitEnd,
}

impl<'a> BrokerCall<'a> {
    pub(super) fn new(
        session_handle: &'a SessionHandle,
        guard: InFlightGuard<'a>,
        time: &'a TimeLimit,
    ) -> Self {
        Self {
            session_handle,
            progress: CallProgress::new(guard),
            time,
            last_session: None,
        }
    }

    /// Sends the request, again if necessary, until the call ends.
    // Not an `async fn`, and not split into several: the future of each would have room for its
    // arguments twice, as they were passed and as variables of its body. Nothing large is alive
    // while the call waits for its next event.
    #[allow(clippy::manual_async_fn)]
    pub(super) fn run(mut self) -> impl Future<Output = Outcome> + Send + 'a {
        async move {
            let mut deadline = pin!(sleep_until(self.time.deadline));
            'requests: loop {
                // Before the session is read, so that no session change is missed.
                if let Some(reply) = self.call().take_reply_and_forget_events() {
                    return self.end_with_reply(reply);
                }
                if self.waits_for_end() {
                    return self.await_end().await;
                }
                let session = if let Some(session) = self.session_handle.current(self.lost_session()) {
                    session
                } else {
                    match self.wait_for_session(deadline.as_mut()).await {
                        ControlFlow::Continue(session) => session,
                        ControlFlow::Break(outcome) => return outcome,
                    }
                };
                // The stream began while the call waited for a session, or by another attempt that
                // a layer made. No other request may be sent. If this attempt sent none, it watches
                // this session.
                if self.plan().has_stream_begun() {
                    self.last_session.get_or_insert(session);
                    return self.await_end().await;
                }
                self.send(session);
                let failure = loop {
                    let Some(event) = self.call().next_event(deadline.as_mut()).await else {
                        return self.give_up_or_await_end().await;
                    };
                    match self.next_step(event) {
                        ControlFlow::Continue(Next::Wait) => {}
                        // The head of the loop sends the request, or awaits the end.
                        ControlFlow::Continue(Next::Resend | Next::AwaitEnd) => continue 'requests,
                        ControlFlow::Continue(Next::ResendInNewSession) => {
                            self.progress.is_session_lost = true;
                            continue 'requests;
                        }
                        ControlFlow::Continue(Next::HandleFailure(failure)) => break failure,
                        ControlFlow::Break(outcome) => return outcome,
                    }
                };
                if let ControlFlow::Break(outcome) = self.wait_to_resend(failure, deadline.as_mut()).await {
                    return outcome;
                }
            }
        }
    }

    /// Waits for an open session other than the lost one. The call ends if a reply to an earlier
    /// request arrives, at the deadline, or if no session can be opened.
    fn wait_for_session<'b>(&'b mut self, deadline: Pin<&'b mut Sleep>) -> BoxFuture<'b, Step<Arc<Session>>> {
        Box::pin(async move {
            let lost = self.lost_session().cloned();
            let session = pin!(self.session_handle.wait_open(lost.as_ref()));
            match self.unless_ended(deadline, session).await? {
                Ok(session) => ControlFlow::Continue(session),
                Err(reason) => ControlFlow::Break(Err(broker_error(reason, self.progress.may_have_run))),
            }
        })
    }

    /// Returns the session of the last request, if the next request must not use it.
    fn lost_session(&self) -> Option<&Arc<Session>> {
        self.last_session
            .as_ref()
            .filter(|_| self.progress.is_session_lost)
    }

    /// Sends a request in this session.
    fn send(&mut self, session: Arc<Session>) {
        let request = QueuedRequest {
            is_resent: self.progress.may_have_run,
            confirm: PendingConfirm::new(self.call(), self.progress.begin_request()),
            deadline: self.time.deadline,
            built: None,
        };
        // Only the first request of a call is treated as that of a call that is alone.
        let is_alone = std::mem::take(&mut self.progress.guard.is_alone);
        session.requests.send(request, is_alone);
        self.last_session = Some(session);
        self.progress.is_session_lost = false;
    }

    /// Records what an event says about the call's requests, and decides what to do next.
    fn next_step(&mut self, event: CallEvent) -> Step<Next> {
        let plan = self.plan();
        match event {
            CallEvent::Reply(reply) => return ControlFlow::Break(self.end_with_reply(reply)),
            // A worker has the request, whatever the broker says about it.
            _ if plan.has_stream_begun() => return ControlFlow::Continue(Next::AwaitEnd),
            CallEvent::Confirmed if plan.method.is_oneway() => {
                return ControlFlow::Break(empty_reply(plan.codec));
            }
            CallEvent::Confirmed => {
                self.progress.is_confirmed = true;
                self.progress.may_have_run = true;
                self.progress.last_failure = None;
            }
            CallEvent::NotConfirmed(published) => {
                return ControlFlow::Continue(Next::HandleFailure(published));
            }
            CallEvent::BatchReturned => {
                self.progress.end_request();
                return ControlFlow::Continue(Next::Resend);
            }
            CallEvent::StateChanged => {}
        }
        self.check_session()
    }

    /// Waits for the reply that ends a stream. The request is not sent again. Fails if the handle
    /// is closed, if the reply address is lost, or if the stream is overdue.
    fn await_end(&mut self) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            self.progress.may_have_run = true;
            // A request that waits to be sent again must not run beside the one that has begun.
            self.progress.withdraw();
            let (limit, call) = (self.time.limit, self.call());
            let epoch = self.last_session.take().map(|session| session.epoch);
            // A stream that has begun has an inbox, and its request had a session.
            let (Some(mut epoch), Some(inbox)) = (epoch, &self.plan().destination.inbox) else {
                return Err(self.give_up());
            };
            // A call that only sends items has no reader whose wait is limited. The time without a
            // session is limited instead.
            let has_reader = self.plan().destination.credit().is_some();
            loop {
                let is_open = self.check_stream_session(&mut epoch, inbox)?;
                inbox.set_down(!is_open && !has_reader);
                let overdue_at = pin!(sleep_until(inbox.overdue_at(limit, !is_open)));
                match call.next_event(overdue_at).await {
                    Some(CallEvent::Reply(reply)) => return self.end_with_reply(reply),
                    Some(_) => {}
                    // Look at the session again: no event tells when it is lost.
                    None => match inbox.overdue(limit, !self.is_session_open()) {
                        Some(Overdue::Silent) => return Err(silent_error()),
                        Some(Overdue::TimedOut) => {
                            return Err(CallError::TimedOut {
                                limit,
                                executed: Executed::Maybe,
                                source: self.session_handle.obstacle(),
                            });
                        }
                        None => {}
                    },
                }
            }
        })
    }

    /// Returns whether the session is open, and tells the inbox if its consumer is no longer that
    /// of `epoch`, the one seen last. Fails if the handle is closed or the reply address is lost.
    fn check_stream_session(&self, epoch: &mut ReplyEpoch, inbox: &ItemInbox) -> Result<bool, CallError> {
        let state = self.session_handle.state().borrow();
        if state.phase.is_closed() {
            let reason = self.session_handle.status_board().end_reason_or_closed();
            return Err(broker_error(reason, true));
        }
        if state.epoch.address != epoch.address {
            return Err(broker_error(state.loss_error(), true));
        }
        if state.epoch.consumer != epoch.consumer {
            *epoch = state.epoch;
            inbox.record_reconnected();
        }
        Ok(state.phase.is_open())
    }

    fn is_session_open(&self) -> bool {
        self.session_handle.state().borrow().phase.is_open()
    }

    /// Decides, after a confirm or a change of the session, whether to wait for the reply, to send
    /// the request again, or to fail.
    fn check_session(&self) -> Step<Next> {
        let state = self.session_handle.state().borrow();
        if state.phase.is_closed() {
            let reason = self.session_handle.status_board().end_reason_or_closed();
            let may_have_run = self.progress.withdraw();
            return ControlFlow::Break(Err(broker_error(reason, may_have_run)));
        }
        // A request that is not confirmed yet will be confirmed or fail. That event decides.
        let Some(session) = self.last_session.as_ref().filter(|_| self.progress.is_confirmed) else {
            return ControlFlow::Continue(Next::Wait);
        };
        match resend::after_confirm(self.plan().method.is_idempotent(), session.epoch, state.epoch) {
            ResendDecision::Wait => ControlFlow::Continue(Next::Wait),
            ResendDecision::Resend => ControlFlow::Continue(Next::ResendInNewSession),
            ResendDecision::Fail => ControlFlow::Break(Err(broker_error(state.loss_error(), true))),
        }
    }

    /// Waits until the call may send its request again, or ends the call: the broker did not
    /// confirm its request.
    fn wait_to_resend<'b>(
        &'b mut self,
        published: Box<Published>,
        deadline: Pin<&'b mut Sleep>,
    ) -> BoxFuture<'b, Step<()>> {
        Box::pin(async move {
            self.progress.end_request();
            match *published {
                Published::Returned => self.after_return(deadline).await,
                Published::Refused => self.after_refusal(deadline).await,
                Published::Failed { source, written } => self.after_failed_publish(source, written),
                // Never happens: a call that withdraws its request does not wait for the outcome,
                // and a confirm is no failure.
                Published::Withdrawn | Published::Confirmed => ControlFlow::Continue(()),
            }
        })
    }

    /// Waits for the queue, or ends the call: the broker returned its request for lack of a queue.
    async fn after_return(&mut self, deadline: Pin<&mut Sleep>) -> Step<()> {
        let (plan, may_have_run) = (self.plan(), self.progress.may_have_run);
        let queue = &plan.destination.queue;
        // The queue of a call that may have run existed before, and a worker may declare it again.
        let waits_for_queue = plan.wait_for_server || (may_have_run && plan.method.is_idempotent());
        if waits_for_queue {
            self.progress.last_failure = Some(PublishFailure::NoServer);
            return self.unless_ended(deadline, pin!(sleep(NO_SERVER_DELAY))).await;
        }
        // Only an idempotent call sends another request after one that may have run. If that
        // changes, this error still does not say that none has.
        ControlFlow::Break(Err(if may_have_run {
            broker_error(queue_gone_error(queue), true)
        } else {
            no_server_error(queue)
        }))
    }

    /// Waits to send the request again, or ends the call: the broker refused its request. A queue
    /// that has lost its leader may have delivered it nevertheless.
    async fn after_refusal(&mut self, deadline: Pin<&mut Sleep>) -> Step<()> {
        let plan = self.plan();
        let may_have_run_before = self.progress.may_have_run;
        self.progress.may_have_run = true;
        if resend::after_refusal(plan.method.is_idempotent()) == ResendDecision::Fail {
            return ControlFlow::Break(Err(refused_error(&plan.destination.queue)));
        }
        self.progress.last_failure = Some(PublishFailure::Refused);
        // Sends again even if the queue is missing: the call waits for a server, or the queue
        // existed before and may be declared again.
        if may_have_run_before || plan.wait_for_server {
            let delay = self.progress.retry_state().backoff.next_delay();
            return self.unless_ended(deadline, pin!(sleep(delay))).await;
        }
        let is_missing = pin!(self.session_handle.is_queue_missing(&plan.destination));
        if self.unless_ended(deadline, is_missing).await? {
            return ControlFlow::Break(Err(refused_error(&plan.destination.queue)));
        }
        // As far as is known, the queue exists, and may take the next request at once. If it
        // refuses that one, too, the call waits as above, because this one may have run.
        ControlFlow::Continue(())
    }

    /// Lets the call send its request again, or ends it: the request could not be sent, or its
    /// confirm was lost. `written` is whether the broker may have got the request.
    fn after_failed_publish(&mut self, source: BrokerError, written: bool) -> Step<()> {
        // If the handle has ended, that is why the request failed.
        let source = self.session_handle.status_board().end_reason().unwrap_or(source);
        self.progress.is_session_lost = true;
        self.progress.last_failure = None;
        self.progress.may_have_run |= written;
        if written && matches!(source, BrokerError::ChannelClosed { .. }) {
            self.progress.retry_state().channels_closed += 1;
        }
        let is_permanent = source.is_handle_ended() || matches!(source, BrokerError::Unsendable { .. });
        let is_idempotent = self.plan().method.is_idempotent();
        let channels_closed = self.progress.channels_closed();
        match resend::after_failed_publish(is_idempotent, written, channels_closed) {
            ResendDecision::Resend if !is_permanent => ControlFlow::Continue(()),
            _ => ControlFlow::Break(Err(broker_error(source, self.progress.may_have_run))),
        }
    }

    /// Waits for a future, unless the call ends first: with a reply to an earlier request, or
    /// [at its deadline](Self::give_up_or_await_end).
    async fn unless_ended<T>(
        &mut self,
        deadline: Pin<&mut Sleep>,
        future: Pin<&mut impl Future<Output = T>>,
    ) -> Step<T> {
        let reply = tokio::select! {
            biased;
            reply = self.call().reply(deadline) => reply,
            output = future => return ControlFlow::Continue(output),
        };
        ControlFlow::Break(match reply {
            Some(reply) => self.end_with_reply(reply),
            None => self.give_up_or_await_end().await,
        })
    }

    /// Whether the call's stream has begun, and this attempt has sent a request or watches a
    /// session. Then it sends no request again, and waits for the end of the stream.
    fn waits_for_end(&self) -> bool {
        self.plan().has_stream_begun() && self.last_session.is_some()
    }

    /// Ends the call at its deadline, unless it [waits for the end](Self::waits_for_end) of its
    /// stream: the deadline limits only the wait for the first message.
    fn give_up_or_await_end(&mut self) -> BoxFuture<'_, Outcome> {
        if self.waits_for_end() {
            return self.await_end();
        }
        Box::pin(std::future::ready(Err(self.give_up())))
    }

    /// Ends the call with its reply. If workers may still be running a method with a stream, tells
    /// them to stop.
    fn end_with_reply(&mut self, reply: ReceivedReply) -> Outcome {
        self.progress.guard.is_answered = true;
        let has_stream = self.plan().destination.inbox.is_some();
        // The worker of a stream does not know that this client cannot read it. A second worker may
        // run the method if the request was sent twice.
        let may_still_run = reply.is_err() || self.progress.is_resent;
        if has_stream && may_still_run {
            self.abandon();
        }
        check_reply(
            reply,
            self.session_handle.options.max_accepted_bytes,
            self.progress.is_resent,
        )
    }

    /// Withdraws the request at the deadline, and returns the call's error. May forget the batch
    /// size of the method.
    ///
    /// A refusal tells more than the timeout. So does a missing queue, but `NoServer` also says
    /// that the method has not run.
    fn give_up(&self) -> CallError {
        let may_have_run = self.progress.withdraw();
        self.call().forget_batch_size_after_timeout(may_have_run);
        let queue = &self.plan().destination.queue;
        match self.progress.last_failure {
            Some(PublishFailure::Refused) => refused_error(queue),
            Some(PublishFailure::NoServer) if !may_have_run => no_server_error(queue),
            _ => CallError::TimedOut {
                limit: self.time.limit,
                executed: maybe_executed(may_have_run),
                source: self.session_handle.obstacle(),
            },
        }
    }

    /// Withdraws the request, unless it is one-way. If workers may have this request or an earlier
    /// one of the call, tells them that the caller no longer waits.
    fn abandon(&self) {
        let plan = self.plan();
        // A one-way request that was sent runs whether or not its caller still waits. One that was
        // not sent is withdrawn when `progress` is dropped.
        if !plan.method.is_oneway() && self.progress.withdraw() {
            self.session_handle
                .in_flight
                .control_messages
                .cancel(AbandonedCall {
                    key: plan.destination.queue.clone(),
                    id: self.call().id(),
                    deadline: self.time.deadline,
                });
        }
    }

    fn call(&self) -> &'a Arc<InFlightCall> {
        self.progress.guard.call
    }

    fn plan(&self) -> &'a CallPlan {
        self.call().plan()
    }
}

impl Drop for BrokerCall<'_> {
    fn drop(&mut self) {
        if !self.progress.guard.is_answered {
            self.abandon();
        }
    }
}

/// Builds the error for a stream whose next item, or sign of its worker, has not arrived.
fn silent_error() -> CallError {
    let message =
        format!("the worker is gone, or items were lost: the stream has not gone on for {MAX_SILENCE:?}");
    CallError::Fault(Fault::new(FaultCode::Interrupted, message))
}

#[cfg(test)]
mod tests {
    use futures_util::{Stream, StreamExt};
    use tokio::time::Instant;

    use super::*;
    use crate::protocol::{Headers, ITEMS_TYPE, Items, Message, Properties, ShortStr, Volume, WORKER_HEADER};
    use crate::transport::memory::{InProcessBroker, MemoryTransport};
    use crate::transport::{ReplyQueue, RequestQueue, Role, Transport};
    use crate::{Broker, StreamingCall, service};

    #[service(queue = "feed")]
    trait Feed {
        fn numbers(&self) -> impl Stream<Item = u64>;
        async fn size(&self) -> u64;
    }

    /// A stream with an exclusive reply queue, and who may answer it.
    struct Scene {
        memory: InProcessBroker,
        transport: Arc<MemoryTransport>,
        stream: StreamingCall<u64>,
        request: Properties,
    }

    impl Scene {
        /// Begins a stream, which is polled until its request has arrived.
        async fn new() -> Self {
            let memory = InProcessBroker::new();
            let transport = Arc::new(MemoryTransport::new(&memory));
            let options = Broker::builder().reply_queue(ReplyQueue::Exclusive);
            let broker = options.with_transport(Arc::clone(&transport) as Arc<dyn Transport>);
            let queue = RequestQueue::new("feed");
            let mut requests = transport.open_requests(&queue, 1).await.unwrap();
            let mut stream = FeedClient::new(&broker).numbers();
            let request = tokio::select! {
                item = stream.next() => panic!("{item:?}"),
                request = requests.deliveries.next() => request.unwrap().unwrap().message.properties,
            };
            Self {
                memory,
                transport,
                stream,
                request,
            }
        }

        /// Answers with these items in MessagePack, the first of which has the number `first`.
        fn send(&self, first: u64, items: &[u8]) {
            let mut headers = Headers::default();
            let worker = r#"{"id":"5a3ff4d3-3a4f-4e0e-8c9e-6c8f0c7a2a10"}"#;
            headers.insert(ShortStr::from_static(WORKER_HEADER), worker.to_owned());
            let items = Items {
                first,
                items: items.iter().map(|item| [*item]).collect(),
                credit: Volume::MAX,
            };
            let message = Message {
                properties: Properties {
                    kind: Some(ShortStr::from_static(ITEMS_TYPE)),
                    correlation_id: self.request.correlation_id.clone(),
                    headers,
                    ..Properties::default()
                },
                body: items.write(),
            };
            let address = self.request.reply_to.as_ref().unwrap();
            self.memory.inject(address.as_str(), message);
        }
    }

    /// Its reader does not poll the call between the request and the loss.
    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_lost_as_a_stream_begins_ends_it_at_once() {
        let mut scene = Scene::new().await;
        scene.send(0, &[]);
        sleep(Duration::from_secs(1)).await;
        scene.transport.cut(Role::Consuming, Duration::ZERO);
        scene.transport.restore(Role::Consuming);
        sleep(Duration::from_secs(5)).await;
        let polled = Instant::now();
        let lost = scene.stream.next().await.unwrap().unwrap_err();
        assert!(matches!(lost, CallError::Broker { .. }), "{lost:?}");
        assert!(polled.elapsed() < Duration::from_secs(1));
    }

    /// The time limit of the first message is over by then.
    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_begun_outlasts_a_lost_connection_for_requests() {
        let mut scene = Scene::new().await;
        scene.send(0, &[7]);
        sleep(Duration::from_secs(1)).await;
        scene.transport.cut(Role::Publishing, Duration::ZERO);
        sleep(Duration::from_secs(24)).await;
        assert_eq!(scene.stream.next().await.unwrap().unwrap(), 7);
        let waits = tokio::time::timeout(Duration::from_secs(7), scene.stream.next());
        assert!(waits.await.is_err());
        scene.send(1, &[8]);
        scene.transport.restore(Role::Publishing);
        assert_eq!(scene.stream.next().await.unwrap().unwrap(), 8);
    }

    /// The queue may have been declared since it was found missing.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_loses_its_connection_no_longer_reports_a_missing_queue() {
        let transport = Arc::new(MemoryTransport::new(&InProcessBroker::new()));
        let broker = Broker::builder().with_transport(Arc::clone(&transport) as Arc<dyn Transport>);
        let feed = FeedClient::builder(&broker)
            .wait_for_server(true)
            .timeout(Duration::from_secs(1))
            .build();
        let lose_next_request = async {
            sleep(NO_SERVER_DELAY / 2).await;
            transport.block(true);
            sleep(NO_SERVER_DELAY).await;
            transport.cut(Role::Publishing, Duration::ZERO);
        };
        let (outcome, ()) = tokio::join!(feed.size(), lose_next_request);
        let error = outcome.unwrap_err();
        assert!(
            matches!(
                error,
                CallError::TimedOut {
                    executed: Executed::No,
                    source: Some(BrokerError::Lost { .. }),
                    ..
                }
            ),
            "{error:?}"
        );
    }
}
