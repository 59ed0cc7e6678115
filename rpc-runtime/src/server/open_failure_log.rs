//! Limits how often a failure to open a queue or a channel is logged.

use crate::error::BrokerError;

/// Which failures were logged since the queue or channel was last open.
#[derive(Debug, Default)]
pub(super) struct OpenFailureLog {
    has_transient: bool,
    has_lasting: bool,
}

impl OpenFailureLog {
    /// Records a failure. Returns whether to log it: only the first
    /// [transient](BrokerError::is_transient) one and the first lasting one are logged.
    pub(super) fn admit(&mut self, error: &BrokerError) -> bool {
        let is_logged = if error.is_transient() {
            &mut self.has_transient
        } else {
            &mut self.has_lasting
        };
        !std::mem::replace(is_logged, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    #[test]
    fn the_first_failure_of_each_kind_is_logged() {
        let queue = |is_temporary| BrokerError::Queue {
            queue: "q".into(),
            source: Cause::new("why"),
            is_temporary,
        };
        let mut log = OpenFailureLog::default();
        let is_logged = [true, false, true, false, true].map(|is_temporary| log.admit(&queue(is_temporary)));
        assert_eq!(is_logged, [true, true, false, false, false]);
    }
}
