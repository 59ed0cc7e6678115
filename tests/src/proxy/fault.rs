//! The handle of a lasting fault.

use std::sync::Arc;

use super::{
    rules::{Condition, Rule},
    shared::Shared,
    target::Target,
};

/// A fault that is switched on.
///
/// It ends when this is dropped or [healed](Fault::heal).
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    rule: Arc<Rule>,
    shared: Arc<Shared>,
}

impl Fault {
    /// Switches the fault on.
    pub(super) fn new(shared: Arc<Shared>, target: Target, condition: Condition) -> Self {
        let rule = Arc::new(Rule { target, condition });
        shared.rules.send_modify(|rules| rules.0.push(rule.clone()));
        Self { rule, shared }
    }

    /// Ends the fault. Returns once the port is open again, unless another fault keeps it closed.
    pub async fn heal(self) {
        let shared = self.shared.clone();
        drop(self);
        shared.port_follows_rules().await;
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let others = |rule: &Arc<Rule>| !Arc::ptr_eq(rule, &self.rule);
        self.shared.rules.send_modify(|rules| rules.0.retain(others));
    }
}
