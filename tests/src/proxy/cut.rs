//! The handle of a connection that is lost at a certain byte.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::timeout;

use super::{
    shared::Shared,
    target::Target,
    trigger::{Plan, Trigger},
};

/// A cut that resets the first connection that gets to a certain byte, once.
///
/// Dropping this cancels the cut, if it has not happened.
#[derive(Debug)]
#[must_use = "the cut is called off when this is dropped"]
pub struct Cut {
    trigger: Arc<Trigger>,
    shared: Arc<Shared>,
}

impl Cut {
    /// Watches the connections of this target from now on.
    pub(super) fn new(shared: Arc<Shared>, target: Target, plan: Plan) -> Self {
        let trigger = Arc::new(Trigger::new(target, plan));
        let mut triggers = shared.triggers.lock().unwrap_or_else(PoisonError::into_inner);
        triggers.push(trigger.clone());
        drop(triggers);
        Self { trigger, shared }
    }

    /// Waits until a connection was cut and is closed.
    ///
    /// # Errors
    ///
    /// Fails if that takes longer than `within`.
    pub async fn happened(&self, within: Duration) -> anyhow::Result<()> {
        let mut victim = self.trigger.victim.subscribe();
        let gone = async {
            let victim = victim.wait_for(Option::is_some).await?.clone();
            victim.context("there is one")?.ended().await;
            Ok(())
        };
        timeout(within, gone)
            .await
            .with_context(|| format!("nothing was cut within {within:?}"))?
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let mut triggers = self
            .shared
            .triggers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        triggers.retain(|trigger| !Arc::ptr_eq(trigger, &self.trigger));
    }
}
