//! Sends requests: at once if possible, otherwise through the task that batches them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::batching::{SendTask, publishes_at_once};
use super::in_flight_calls::InFlightCalls;
use super::options::CallerOptions;
use super::queued_request::QueuedRequest;
use super::request_publisher::{RequestPublisher, count_sent};
use crate::protocol::ShortStr;
use crate::transport::{Outgoing, Publisher};

/// Sends the requests of one session.
#[derive(Debug)]
pub(super) struct RequestSender {
    publisher: Arc<RequestPublisher>,
    /// Unbounded, because the calls in flight are limited: those of each client, and the encoded
    /// ones to each queue.
    to_send_task: UnboundedSender<QueuedRequest>,
}

impl RequestSender {
    /// Returns a sender, and the task that publishes the requests that the sender passes to it. The
    /// task ends once the sender is dropped and the outcomes of all requests are known.
    pub(super) fn new(
        publisher: Arc<dyn Publisher>,
        reply_to: ShortStr,
        options: Arc<CallerOptions>,
        in_flight: Arc<InFlightCalls>,
    ) -> (Self, impl Future<Output = ()>) {
        let (to_send_task, requests) = unbounded_channel();
        let publisher = Arc::new(RequestPublisher::new(
            publisher,
            reply_to,
            options,
            Arc::clone(&in_flight),
        ));
        let task = SendTask::new(Arc::clone(&publisher), in_flight);
        let sender = Self {
            publisher,
            to_send_task,
        };
        (sender, task.run(requests))
    }

    /// Publishes a request at once, or passes it to the task if it is to be batched or held back,
    /// if earlier requests wait there, or if the transport does not accept it now. `is_alone` is
    /// whether no other call will share a batch with it: then it need not be batched.
    pub(super) fn send(&self, mut request: QueuedRequest, is_alone: bool) {
        // The request must not overtake earlier ones that wait in the task.
        let has_backlog = self.publisher.has_backlog.load(Ordering::Relaxed);
        if !has_backlog && (is_alone || publishes_at_once(&request)) {
            match self.try_publish(&mut request) {
                Ok(()) => return request.confirm.leave_to_transport(),
                Err(message) => request.built = Some(message),
            }
        }
        if !has_backlog {
            self.publisher.has_backlog.store(true, Ordering::Relaxed);
        }
        // If the task has ended, dropping the request reports that to its call.
        let _ = self.to_send_task.send(request);
    }

    /// Publishes a request without waiting, and counts it.
    ///
    /// # Errors
    ///
    /// Returns its message if the transport does not accept it now.
    fn try_publish(&self, request: &mut QueuedRequest) -> Result<(), Box<Outgoing>> {
        let message = self.publisher.single(request);
        let call = Arc::clone(request.confirm.call());
        self.publisher.try_publish(message, call)?;
        count_sent(&request.plan().destination, 1);
        Ok(())
    }
}
