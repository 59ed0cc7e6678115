//! The calls that wait for a permit, and their order. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Identifies a waiting call by its priority and by its number in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaitingKey {
    priority: u8,
    number: u64,
}

/// Which of several waiting calls with the same priority gets the next permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    /// Under overload most calls cannot be answered. The newest have the most time left. If the
    /// oldest went first, each would get its permit just before its deadline.
    NewestFirst,
}

/// The calls that wait. `W` hands a call its permit.
#[derive(Debug)]
pub(super) struct WaitingCalls<W> {
    /// Each call's deadline, and how to hand it a permit.
    calls: BTreeMap<WaitingKey, (Instant, W)>,
    next_number: u64,
}

impl<W> Default for WaitingCalls<W> {
    fn default() -> Self {
        Self {
            calls: BTreeMap::new(),
            next_number: 0,
        }
    }
}

impl<W> WaitingCalls<W> {
    /// Adds a call, and returns its key. `waiter` will hand it a permit.
    pub(super) fn add(&mut self, priority: u8, deadline: Instant, waiter: W) -> WaitingKey {
        let key = WaitingKey {
            priority,
            number: self.next_number,
        };
        self.next_number += 1;
        self.calls.insert(key, (deadline, waiter));
        key
    }

    /// Removes a call. Returns `false` if it no longer waits.
    pub(super) fn remove(&mut self, key: WaitingKey) -> bool {
        self.calls.remove(&key).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Removes the next call of the highest priority, if that is at least `min_priority`. Returns
    /// its priority, and what hands it a permit. Removes calls before it whose deadline has passed:
    /// they get no permit. `None` if no call with such a priority is left.
    pub(super) fn take_next(&mut self, min_priority: u8, order: Order, now: Instant) -> Option<(u8, W)> {
        loop {
            let (&newest_of_highest, _) = self.calls.last_key_value()?;
            let priority = newest_of_highest.priority;
            if priority < min_priority {
                return None;
            }
            let key = match order {
                Order::NewestFirst => newest_of_highest,
                Order::OldestFirst => *self.calls.range(WaitingKey { priority, number: 0 }..).next()?.0,
            };
            let (deadline, waiter) = self.calls.remove(&key)?;
            if deadline >= now {
                return Some((priority, waiter));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ORDERS: [Order; 2] = [Order::OldestFirst, Order::NewestFirst];

    #[test]
    fn the_highest_priority_is_next() {
        let now = Instant::now();
        for order in ORDERS {
            let mut waiting = WaitingCalls::default();
            for priority in [0, 9, 255, 4] {
                waiting.add(priority, now, priority);
            }
            let next: Vec<_> = std::iter::from_fn(|| waiting.take_next(0, order, now))
                .map(|(_, call)| call)
                .collect();
            assert_eq!(next, [255, 9, 4, 0]);
            waiting.add(4, now, 4);
            assert_eq!(waiting.take_next(5, order, now), None);
            assert_eq!(waiting.take_next(4, order, now), Some((4, 4)));
        }
    }

    #[test]
    fn the_order_decides_between_equal_priorities() {
        let now = Instant::now();
        for (order, expected) in ORDERS.into_iter().zip([[1, 2, 3], [3, 2, 1]]) {
            let mut waiting = WaitingCalls::default();
            for call in 1..=3 {
                waiting.add(0, now, call);
            }
            let next: Vec<_> = std::iter::from_fn(|| waiting.take_next(0, order, now))
                .map(|(_, call)| call)
                .collect();
            assert_eq!(next, expected);
        }
    }

    #[test]
    fn a_call_that_would_come_too_late_gets_no_permit() {
        let start = Instant::now();
        let soon = start + Duration::from_millis(5);
        let now = start + Duration::from_millis(20);
        for order in ORDERS {
            let mut waiting = WaitingCalls::default();
            waiting.add(9, soon, "too late");
            waiting.add(0, now, "in time");
            let late = waiting.add(0, soon, "too late");
            assert_eq!(waiting.take_next(0, order, now), Some((0, "in time")));
            assert_eq!(waiting.take_next(0, order, now), None);
            assert_eq!(waiting.len(), 0);
            assert!(!waiting.remove(late));
        }
    }
}
