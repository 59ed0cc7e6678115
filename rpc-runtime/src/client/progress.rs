//! How far a call has come.

use super::pending::Ticket;
use crate::transport::{Backoff, Departs};

/// How far a call has come, for when its time is up or it is dropped.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    pub(super) ticket: Ticket<'a>,
    /// The current request's number.
    pub(super) request: Option<u32>,
    /// An earlier request may have reached a worker.
    pub(super) was_written: bool,
    /// A request was sent again after another one that may have reached a worker.
    pub(super) is_resent: bool,
    /// What kept the last request from its queue, where the call goes on all the same.
    pub(super) setback: Option<Setback>,
    /// What a call seldom needs.
    pub(super) troubles: Option<Box<Troubles>>,
}

#[derive(Debug)]
pub(super) struct Troubles {
    /// How often the broker closed a channel over what was sent.
    pub(super) channels_lost: u32,
    /// How long a request that the broker did not take rests before it is sent again.
    pub(super) backoff: Backoff,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Setback {
    /// The broker knows no such queue.
    NoServer,
    /// The broker did not take it.
    Refused,
}

impl<'a> Progress<'a> {
    pub(super) fn new(ticket: Ticket<'a>) -> Self {
        Self {
            ticket,
            request: None,
            was_written: false,
            is_resent: false,
            setback: None,
            troubles: None,
        }
    }

    /// Another request is to be sent, of this number.
    pub(super) fn begin(&mut self) -> u32 {
        self.is_resent |= self.was_written;
        let number = self.ticket.slot.departures().begin();
        self.request = Some(number);
        number
    }

    /// Takes the current request back; `true` where it has left before, or an earlier one.
    pub(super) fn withdraw(&self) -> bool {
        let has_left = |number| !self.ticket.slot.departures().withdraw(number);
        self.request.is_some_and(has_left) || self.was_written
    }

    pub(super) fn troubles(&mut self) -> &mut Troubles {
        self.troubles.get_or_insert_with(|| {
            Box::new(Troubles {
                channels_lost: 0,
                backoff: Backoff::new(),
            })
        })
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        // It has left where it cannot be withdrawn, and so has every request that was answered.
        self.withdraw();
    }
}
