//! A value that several tasks watch, like tokio's `watch`.
//!
//! Tokio's channel wakes its waiting tasks in a random order. This one wakes them in the order in
//! which they began to wait, so that a simulation with the same seed takes the same course.

use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

/// The sender was dropped.
#[derive(Debug)]
pub(crate) struct RecvError;

#[derive(Debug)]
struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    is_closed: bool,
}

impl<T> Shared<T> {
    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    pub(crate) fn new(value: T) -> Self {
        let state = State {
            value,
            is_closed: false,
        };
        Self(Arc::new(Shared {
            state: RwLock::new(state),
            changed: Notify::new(),
        }))
    }

    pub(crate) fn subscribe(&self) -> Receiver<T> {
        Receiver(Arc::clone(&self.0))
    }

    pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.0.change(|state| modify(&mut state.value));
    }

    pub(crate) fn send_replace(&self, value: T) {
        self.send_modify(|current| *current = value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.change(|state| state.is_closed = true);
    }
}

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the value meets a condition. Returns at once if it does already, even if the
    /// sender was dropped. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`RecvError`] if the sender is dropped first.
    pub(crate) async fn wait_for(
        &mut self,
        mut is_wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        loop {
            // Begins to wait before the value is read, so that no later change is missed.
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            {
                let value = self.borrow();
                if is_wanted(&value) {
                    return Ok(value);
                }
                if value.0.is_closed {
                    return Err(RecvError);
                }
            }
            changed.await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A borrowed value. Holds a read lock, so the value cannot change meanwhile. Must not be held
/// across an `await`.
#[derive(Debug)]
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_wanted_value_or_with_the_sender() {
        let (sender, mut receiver) = channel(0);
        assert_eq!(
            receiver.wait_for(|value| *value == 0).await.as_deref().ok(),
            Some(&0)
        );
        let mut other = receiver.clone();
        let mut waiting = pin!(other.wait_for(|value| *value == 2));
        assert!(waiting.as_mut().now_or_never().is_none());
        sender.send_replace(1);
        assert!(waiting.as_mut().now_or_never().is_none());
        sender.send_modify(|value| *value += 1);
        assert!(waiting.now_or_never().is_some_and(|value| value.is_ok()));
        drop(sender);
        assert!(receiver.wait_for(|value| *value == 3).await.is_err());
        assert_eq!(*receiver.borrow(), 2);
    }

    #[tokio::test]
    async fn tasks_are_woken_in_the_order_in_which_they_wait() {
        let (sender, receiver) = channel(false);
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tasks = [0, 1, 2].map(|number| {
            let (mut receiver, order) = (receiver.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let _ = receiver.wait_for(|value| *value).await;
                order.lock().unwrap().push(number);
            })
        });
        tokio::task::yield_now().await;
        sender.send_replace(true);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    }
}
