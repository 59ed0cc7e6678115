//! What has happened to the requests of a call.

use super::in_flight_calls::InFlightGuard;
use crate::transport::{Backoff, Departs};

/// What has happened to the requests of a call. Dropping it withdraws the current request.
#[derive(Debug)]
pub(super) struct CallProgress<'a> {
    pub(super) guard: InFlightGuard<'a>,
    /// The number of the current request.
    request: Option<u32>,
    /// A request may have reached a worker.
    pub(super) was_written: bool,
    /// A request was sent again although an earlier one may have reached a worker.
    pub(super) is_resent: bool,
    /// Why the last request is not in its queue, if the call goes on all the same.
    pub(super) last_failure: Option<PublishFailure>,
    /// Few calls need it, so it takes no memory in the others.
    retry: Option<Box<RetryState>>,
}

/// Why a request is not in its queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum PublishFailure {
    /// The queue does not exist.
    NoServer,
    /// The broker refused the request.
    Refused,
}

#[derive(Debug)]
pub(super) struct RetryState {
    /// How often the broker closed the channel of a request.
    pub(super) channels_lost: u32,
    /// Delays the request if the broker refuses it.
    pub(super) backoff: Backoff,
}

impl<'a> CallProgress<'a> {
    pub(super) fn new(guard: InFlightGuard<'a>) -> Self {
        Self {
            guard,
            request: None,
            was_written: false,
            is_resent: false,
            last_failure: None,
            retry: None,
        }
    }

    /// Begins another request and returns its number.
    pub(super) fn begin_request(&mut self) -> u32 {
        self.is_resent |= self.was_written;
        let number = self.guard.call.departures().begin();
        self.request = Some(number);
        number
    }

    /// The current request has ended.
    pub(super) fn end_request(&mut self) {
        self.request = None;
    }

    /// Withdraws the current request. Returns whether it, or an earlier one, has been sent.
    pub(super) fn withdraw(&self) -> bool {
        let is_sent = |number| !self.guard.call.departures().withdraw(number);
        self.request.is_some_and(is_sent) || self.was_written
    }

    pub(super) fn channels_lost(&self) -> u32 {
        self.retry.as_ref().map_or(0, |retry| retry.channels_lost)
    }

    pub(super) fn retry(&mut self) -> &mut RetryState {
        self.retry.get_or_insert_with(|| {
            Box::new(RetryState {
                channels_lost: 0,
                backoff: Backoff::new(),
            })
        })
    }
}

impl Drop for CallProgress<'_> {
    fn drop(&mut self) {
        // Has no effect on a request that has been sent, as every answered one has.
        self.withdraw();
    }
}
