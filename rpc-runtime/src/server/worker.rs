//! The worker's loop: one task a request, all of them owned here; and the drain.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::dispatch::{Decision, Dispatcher, ReplyTo, Rules};
use super::service::{Answer, Invocation, Service};
use crate::context::with_ambient_deadline;
use crate::error::{BrokerError, ServerError};
use crate::protocol::{Fault, FaultCode, Reply, ShortStr};
use crate::transport::{
    Control, Delivery, Departure, Outgoing, Published, Publisher, Subscription, WorkerLink,
};

/// How long a handler that was told to stop may take to do so.
const ABORT_LIMIT: Duration = Duration::from_secs(1);

/// Serves what one server consumes.
pub(super) struct Worker {
    lines: Vec<Arc<Line>>,
    arrivals: SelectAll<BoxStream<'static, Arrival>>,
    handlers: JoinSet<Result<(), BrokerError>>,
}

/// What serving a request takes: one for each queue.
struct Line {
    queue: String,
    dispatcher: Dispatcher,
    rules: Arc<Rules>,
    control: Arc<dyn Control>,
    publisher: Arc<dyn Publisher>,
}

/// What comes from a queue.
enum Arrival {
    Request(Arc<Line>, Delivery),
    /// The queue's last word.
    End(BrokerError),
    /// No more will come from this queue: its consumer was cancelled.
    Cancelled(Arc<Line>),
}

impl Worker {
    /// Serves the link's subscriptions, each with the queue's name and methods, in the same order.
    pub(super) fn new(link: WorkerLink, served: Vec<(String, Dispatcher)>, rules: Rules) -> Self {
        let WorkerLink { requests, publisher } = link;
        let rules = Arc::new(rules);
        let (mut lines, mut arrivals) = (Vec::new(), SelectAll::new());
        for (Subscription { deliveries, control }, (queue, dispatcher)) in requests.into_iter().zip(served) {
            let (rules, publisher) = (Arc::clone(&rules), Arc::clone(&publisher));
            let line = Arc::new(Line {
                queue,
                dispatcher,
                rules,
                control,
                publisher,
            });
            lines.push(Arc::clone(&line));
            let last = Arrival::Cancelled(Arc::clone(&line));
            let arriving = deliveries.map(move |delivery| match delivery {
                Ok(delivery) => Arrival::Request(Arc::clone(&line), delivery),
                Err(error) => Arrival::End(error),
            });
            arrivals.push(arriving.chain(stream::iter([last])).boxed());
        }
        Self {
            lines,
            arrivals,
            handlers: JoinSet::new(),
        }
    }

    /// Serves until `shutdown` is ready or the broker is lost; then drains.
    pub(super) async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        drain_limit: Duration,
    ) -> Result<(), ServerError> {
        let served = self.serve(shutdown).await;
        let drained = self.drain(drain_limit).await;
        for line in &self.lines {
            line.control.close().await;
        }
        served.map_err(ServerError::from).and(drained)
    }

    async fn serve(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), BrokerError> {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                Some(ended) = self.handlers.join_next() => handled(ended)?,
                arrival = self.arrivals.next() => match arrival {
                    Some(Arrival::Request(line, delivery)) => self.start(line, delivery),
                    Some(Arrival::End(error)) => return Err(error),
                    Some(Arrival::Cancelled(line)) => {
                        return Err(BrokerError::Cancelled { queue: line.queue.clone() });
                    }
                    None => return Err(BrokerError::Lost { source: None }),
                },
            }
        }
    }

    /// Takes no more requests, and lets those that were delivered end.
    async fn drain(&mut self, limit: Duration) -> Result<(), ServerError> {
        if let Ok(finished) = tokio::time::timeout(limit, self.finish()).await {
            return finished.map_err(ServerError::from);
        }
        let unfinished = self.handlers.len();
        self.handlers.abort_all();
        // One that blocks its thread cannot be stopped; its request is given back all the same.
        let stopping = async { while self.handlers.join_next().await.is_some() {} };
        if tokio::time::timeout(ABORT_LIMIT, stopping).await.is_err() {
            tracing::error!("a handler blocks its thread and cannot be stopped");
        }
        Err(ServerError::DrainTimedOut { unfinished, limit })
    }

    /// Waits for every handler, whatever becomes of the others; answers with the first failure.
    async fn finish(&mut self) -> Result<(), BrokerError> {
        let mut finished = Ok(());
        for line in &self.lines {
            finished = finished.and(line.control.cancel().await);
        }
        // What was under way when the consumers were cancelled has been delivered, so it is served.
        while let Some(arrival) = self.arrivals.next().await {
            match arrival {
                Arrival::Request(line, delivery) => self.start(line, delivery),
                Arrival::End(error) => finished = finished.and(Err(error)),
                Arrival::Cancelled(_) => {}
            }
        }
        while let Some(ended) = self.handlers.join_next().await {
            finished = finished.and(handled(ended));
        }
        finished
    }

    /// Begins a request at once: the prefetch keeps their number within the concurrency.
    fn start(&mut self, line: Arc<Line>, delivery: Delivery) {
        self.handlers.spawn(async move { line.serve(delivery).await });
    }
}

/// A handler's task ended: with an error where the broker is lost.
fn handled(ended: Result<Result<(), BrokerError>, JoinError>) -> Result<(), BrokerError> {
    match ended {
        Ok(settled) => settled,
        // A method's panic is caught, so this one is ours; it must not take other requests along.
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a request's task failed"
            );
            Ok(())
        }
    }
}

impl Line {
    /// Serves one request: decides, runs, answers, settles.
    ///
    /// # Errors
    ///
    /// Where the broker is lost before the request is settled; it comes again, to this worker or another.
    async fn serve(&self, delivery: Delivery) -> Result<(), BrokerError> {
        let Delivery {
            message,
            redelivered,
            tag,
        } = delivery;
        let properties = &message.properties;
        let (method, correlation_id) = (properties.kind.clone(), properties.correlation_id.clone());
        let method = method.as_ref().map(ShortStr::as_str);
        let correlation_id = correlation_id.as_ref().map(ShortStr::as_str);
        let (reply, answer_to) = match self.dispatcher.decide(
            message,
            redelivered,
            Instant::now(),
            &self.rules,
        ) {
            Decision::Run {
                service,
                invocation,
                answer_to,
            } => (run(&*service, &invocation).await, answer_to),
            Decision::Refuse {
                reply,
                fault,
                answer_to,
            } => {
                let (queue, code) = (&self.queue, &fault.code);
                tracing::warn!(queue, %code, method, correlation_id, "refused a request");
                (reply, answer_to)
            }
            Decision::Drop { address } => {
                tracing::warn!(%address, "dropped a request: its reply_to is not a reply address, see ReplyAddresses");
                return self.control.settle(tag).await;
            }
        };
        if let Some(answer_to) = answer_to {
            self.answer(self.fit(reply), answer_to).await?;
        }
        self.control.settle(tag).await
    }

    /// Sends a reply and waits until the broker has it. Not mandatory: a caller who is gone is no error.
    async fn answer(&self, reply: Reply, to: ReplyTo) -> Result<(), BrokerError> {
        let outgoing = Outgoing {
            queue: to.address,
            mandatory: false,
            message: reply.into_message(to.correlation_id),
            departure: Departure::default(),
        };
        match self.publisher.publish(outgoing).await {
            Published::Routed | Published::Returned => Ok(()),
            Published::Refused => {
                tracing::error!("the broker refused a reply; its caller will time out");
                Ok(())
            }
            Published::Failed { source, .. } => Err(source),
        }
    }

    /// The reply, or the fault in its place where it is larger than may be sent.
    fn fit(&self, reply: Reply) -> Reply {
        let (size, limit) = (reply.body.len(), self.rules.max_sent_bytes);
        if size <= limit {
            return reply;
        }
        tracing::warn!(size, limit, "a reply is larger than may be sent");
        let message = format!(
            "the method ran, and its reply of {size} bytes is larger than the {limit} that may be sent"
        );
        Reply::fault(reply.codec, &Fault::new(FaultCode::ReplyTooLarge, message))
    }
}

/// Runs the method; its panic is a fault.
pub(crate) async fn run(service: &dyn Service, invocation: &Invocation) -> Reply {
    // Called in there, so that a panic before its future exists is caught too.
    let handling = with_ambient_deadline(invocation.context().deadline(), async {
        service.handle(invocation).await
    });
    let (method, correlation_id) = (invocation.method(), invocation.context().correlation_id());
    let fault = match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(Ok(Answer(reply))) => return reply,
        Ok(Err(fault)) => {
            // Its message may repeat parts of what the caller sent, which does not belong into logs.
            tracing::warn!(code = %fault.code, method, correlation_id, "a request ended with a fault");
            fault
        }
        Err(_) => {
            // The panic's message went to the worker's own panic hook; it is not for the caller to read.
            tracing::error!(method, correlation_id, "a method panicked");
            Fault::new(FaultCode::Panicked, format!("the method {method:?} panicked"))
        }
    };
    Reply::fault(invocation.codec(), &fault)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::protocol::{Message, Properties, ReplyAddresses};

    /// A broker that answers each publish with the same word, and notes what it is told, in order.
    #[derive(Debug)]
    struct Notes {
        word: Published,
        told: Mutex<Vec<&'static str>>,
    }

    impl Notes {
        fn note(&self, what: &'static str) {
            self.told.lock().unwrap().push(what);
        }
    }

    #[async_trait]
    impl Publisher for Notes {
        async fn publish(&self, _outgoing: Outgoing) -> Published {
            self.note("reply sent");
            // Long enough for whatever would not wait for the confirm.
            tokio::task::yield_now().await;
            self.note("reply confirmed");
            self.word.clone()
        }

        async fn closed(&self) -> BrokerError {
            std::future::pending().await
        }
    }

    #[async_trait]
    impl Control for Notes {
        async fn settle(&self, _tag: u64) -> Result<(), BrokerError> {
            self.note("request settled");
            Ok(())
        }

        async fn settle_up_to(&self, tag: u64) -> Result<(), BrokerError> {
            self.settle(tag).await
        }

        async fn cancel(&self) -> Result<(), BrokerError> {
            Ok(())
        }

        async fn close(&self) {}
    }

    /// Serves one request that wants an answer, with a broker that says this word of the reply.
    async fn serve(word: Published) -> (Result<(), BrokerError>, Vec<&'static str>) {
        let notes = Arc::new(Notes {
            word,
            told: Mutex::default(),
        });
        let line = Line {
            queue: "q".into(),
            dispatcher: Dispatcher::default(),
            rules: Arc::new(Rules {
                reply_addresses: ReplyAddresses::default(),
                max_accepted_bytes: 100,
                max_sent_bytes: 100,
            }),
            control: Arc::clone(&notes) as Arc<dyn Control>,
            publisher: Arc::clone(&notes) as Arc<dyn Publisher>,
        };
        let properties = Properties {
            reply_to: Some(ShortStr::from_static("amq.gen-1")),
            ..Properties::default()
        };
        let message = Message {
            properties,
            ..Message::default()
        };
        let served = line
            .serve(Delivery {
                message,
                redelivered: false,
                tag: 1,
            })
            .await;
        let told = notes.told.lock().unwrap().clone();
        (served, told)
    }

    #[tokio::test]
    async fn a_request_is_settled_only_after_its_reply_is_confirmed() {
        let in_order = ["reply sent", "reply confirmed", "request settled"];
        for word in [Published::Routed, Published::Refused] {
            let (served, told) = serve(word).await;
            assert!(served.is_ok());
            assert_eq!(told, in_order);
        }
    }

    #[tokio::test]
    async fn a_request_whose_reply_may_be_lost_is_not_settled() {
        let (served, told) = serve(Published::Failed {
            source: BrokerError::Closed,
            written: true,
        })
        .await;
        assert!(matches!(served, Err(BrokerError::Closed)));
        assert_eq!(told, ["reply sent", "reply confirmed"]);
    }
}
