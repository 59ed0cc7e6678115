//! Limits the encoded calls of a broker handle, which belong to no client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::limiter::{DEFAULT_IN_FLIGHT, Limiter, WhenFull};
use crate::protocol::ShortStr;

/// The limiters of encoded calls, by their queues. Each lives as long as a call that uses it.
#[derive(Debug, Default)]
pub(super) struct EncodedCallLimiters(Mutex<HashMap<ShortStr, Weak<Limiter>>>);

impl EncodedCallLimiters {
    /// Returns the limiter that all encoded calls to this queue share.
    pub(super) fn of(&self, queue: &ShortStr) -> Arc<Limiter> {
        let mut limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limiter) = limiters.get(queue).and_then(Weak::upgrade) {
            return limiter;
        }
        limiters.retain(|_, limiter| limiter.strong_count() > 0);
        // Jobs wait in their queue for any time, so how long they wait says nothing about overload.
        let is_adaptive = false;
        let limiter = Limiter::new(queue.as_str(), DEFAULT_IN_FLIGHT, WhenFull::Wait, is_adaptive);
        limiters.insert(queue.clone(), Arc::downgrade(&limiter));
        limiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_to_a_queue_share_a_limiter_while_they_are_in_flight() {
        let limiters = EncodedCallLimiters::default();
        let of = |queue| limiters.of(&ShortStr::from_static(queue));
        let [mail, again, other] = ["mail", "mail", "orders"].map(of);
        assert!(Arc::ptr_eq(&mail, &again));
        assert!(!Arc::ptr_eq(&mail, &other));
        drop((mail, again));
        let _bills = of("bills");
        let queues: Vec<_> = limiters.0.lock().unwrap().keys().cloned().collect();
        assert_eq!(queues.len(), 2);
        assert!(!queues.contains(&ShortStr::from_static("mail")));
    }
}
