//! Tracks the requests of a call through a broker.

use super::in_flight_calls::InFlightGuard;
use crate::transport::{Backoff, HasLatestSend};

/// What has happened to a call's requests so far. Dropping it withdraws the current request.
#[derive(Debug)]
pub(super) struct CallProgress<'a> {
    pub(super) guard: InFlightGuard<'a>,
    /// The number of the current request. `None` if none waits for a confirm or a reply.
    request: Option<u32>,
    /// Whether the broker has confirmed the current request.
    pub(super) is_confirmed: bool,
    /// Whether a request may have reached a worker. Does not yet cover the current request if its
    /// outcome is unknown: see [`withdraw`](Self::withdraw).
    pub(super) may_have_run: bool,
    /// Whether a request was sent again although an earlier one may have reached a worker.
    pub(super) is_resent: bool,
    /// Whether the next request must not use the session of the last one.
    pub(super) is_session_lost: bool,
    /// Why the broker did not confirm the last request whose outcome is known. `None` if it did, or
    /// if the request or its confirm was lost.
    pub(super) last_failure: Option<PublishFailure>,
    /// Boxed because few calls need it.
    retry: Option<Box<RetryState>>,
}

/// Why the broker did not confirm a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum PublishFailure {
    /// The queue does not exist.
    NoServer,
    /// The broker refused the request.
    Refused,
}

/// What only a call that sends another request needs.
#[derive(Debug)]
pub(super) struct RetryState {
    /// How often the broker closed the channel of a request that it may have got.
    pub(super) channels_closed: u32,
    /// Delays the next request after the broker has refused one.
    pub(super) backoff: Backoff,
}

impl<'a> CallProgress<'a> {
    pub(super) fn new(guard: InFlightGuard<'a>) -> Self {
        Self {
            guard,
            request: None,
            is_confirmed: false,
            may_have_run: false,
            is_resent: false,
            is_session_lost: false,
            last_failure: None,
            retry: None,
        }
    }

    /// Begins another request and returns its number.
    pub(super) fn begin_request(&mut self) -> u32 {
        self.is_resent |= self.may_have_run;
        let number = self.guard.call.latest_send().begin();
        self.request = Some(number);
        self.is_confirmed = false;
        number
    }

    /// Records that no confirm and no reply is expected for the current request any more.
    pub(super) fn end_request(&mut self) {
        self.request = None;
    }

    /// Withdraws the current request, unless it was sent. Returns whether the method may have run:
    /// this request was sent, or an earlier one may have reached a worker.
    pub(super) fn withdraw(&self) -> bool {
        let latest_send = self.guard.call.latest_send();
        let was_sent = self.request.is_some_and(|number| !latest_send.withdraw(number));
        was_sent || self.may_have_run
    }

    pub(super) fn channels_closed(&self) -> u32 {
        self.retry.as_ref().map_or(0, |retry| retry.channels_closed)
    }

    /// Returns what only a call that sends another request needs. Creates it the first time.
    pub(super) fn retry_state(&mut self) -> &mut RetryState {
        self.retry.get_or_insert_with(|| {
            Box::new(RetryState {
                channels_closed: 0,
                backoff: Backoff::new(),
            })
        })
    }
}

impl Drop for CallProgress<'_> {
    fn drop(&mut self) {
        // No effect on a request that was sent, such as one that was answered.
        self.withdraw();
    }
}
