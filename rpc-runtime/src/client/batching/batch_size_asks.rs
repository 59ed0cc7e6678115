//! One-way requests that ask for the batch size of their method.
//!
//! They get no reply. A worker answers with a message that has nothing but the batch size, usually
//! after the call has ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use uuid::Uuid;

use crate::client::destination::{Destination, MethodIndex};
use crate::client::in_flight_call::InFlightCall;

/// The latest one-way requests that asked for a batch size and got no answer yet.
#[derive(Debug, Default)]
pub(in crate::client) struct BatchSizeAsks(Mutex<VecDeque<Ask>>);

#[derive(Debug)]
struct Ask {
    /// The correlation id of the request.
    id: Uuid,
    destination: Weak<Destination>,
    method: MethodIndex,
}

/// If there are more, the oldest are forgotten. Most are answered within milliseconds.
const MAX_ASKS: usize = 256;

impl BatchSizeAsks {
    /// Adds the request of a call.
    pub(in crate::client) fn add(&self, call: &InFlightCall) {
        let plan = call.plan();
        let ask = Ask {
            id: call.id(),
            destination: Arc::downgrade(&plan.destination),
            method: plan.method_index,
        };
        let mut asks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asks.len() == MAX_ASKS {
            asks.pop_front();
        }
        asks.push_back(ask);
    }

    /// Stores a batch size for the method whose request, with this id, asked for it. Returns
    /// `false` if no request with this id waits for an answer.
    pub(in crate::client) fn answer(&self, id: Uuid, batch_size: u16) -> bool {
        let ask = {
            let mut asks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let position = asks.iter().position(|ask| ask.id == id);
            position.and_then(|position| asks.remove(position))
        };
        let Some(Ask {
            destination, method, ..
        }) = ask
        else {
            return false;
        };
        // The client may have been dropped meanwhile.
        if let Some(destination) = destination.upgrade()
            && let Some(learned) = destination.batch_size(method)
        {
            learned.answered_oneway(batch_size);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::in_flight_calls::tests::new_call;

    fn learned(call: &InFlightCall) -> u16 {
        call.plan().batch_size().unwrap().get()
    }

    #[test]
    fn an_answer_is_learned_once_by_the_method_that_asked() {
        let asks = BatchSizeAsks::default();
        let [call, other] = [new_call(), new_call()];
        asks.add(&call);
        assert!(!asks.answer(other.id(), 7));
        assert!(asks.answer(call.id(), 7));
        assert_eq!((learned(&call), learned(&other)), (7, 1));
        assert!(!asks.answer(call.id(), 8));
        assert_eq!(learned(&call), 7);
    }

    #[test]
    fn only_the_latest_requests_are_kept() {
        let asks = BatchSizeAsks::default();
        let calls: Vec<_> = (0..=MAX_ASKS).map(|_| new_call()).collect();
        calls.iter().for_each(|call| asks.add(call));
        assert!(!asks.answer(calls[0].id(), 7));
        assert!(asks.answer(calls[1].id(), 7));
    }
}
