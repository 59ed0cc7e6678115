//! The part of tokio's `watch` that is used here; those that wait are woken in the order in which they began to.

use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

/// The one sender is gone.
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
    version: u64,
    is_closed: bool,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            state: RwLock::new(State {
                value,
                version: 0,
                is_closed: false,
            }),
            changed: Notify::new(),
        }))
    }

    pub(crate) fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.read().version;
        Receiver {
            shared: Arc::clone(&self.0),
            seen,
        }
    }

    pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        let mut state = self.0.write();
        modify(&mut state.value);
        state.version += 1;
        drop(state);
        self.0.changed.notify_waiters();
    }

    pub(crate) fn send_replace(&self, value: T) {
        self.send_modify(|current| *current = value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.write().is_closed = true;
        self.0.changed.notify_waiters();
    }
}

#[derive(Debug)]
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// Waits for a value like that; the current one will do.
    pub(crate) async fn wait_for(
        &mut self,
        mut is_wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.shared.read();
                self.seen = state.version;
                if is_wanted(&state.value) {
                    return Ok(Ref(state));
                }
                if state.is_closed {
                    return Err(RecvError);
                }
            }
            changed.await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

/// The value, locked while this is held.
#[derive(Debug)]
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}
