//! Where a worker may answer to.

/// The pseudo-queue of RabbitMQ's [direct reply-to](https://www.rabbitmq.com/docs/direct-reply-to).
pub(crate) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The names of this library's own resumable reply queues begin so.
pub(crate) const REPLY_QUEUE_PREFIX: &str = "rpc.reply.";

/// The addresses that a worker sends replies to.
///
/// `reply_to` is the sender's to choose, and a worker may write to the default exchange: without a rule, anybody
/// who can send a request could have the worker write into any queue. So a worker answers only to names that are reply
/// addresses by their form:
///
/// - `amq.rabbitmq.reply-to.…`, direct reply-to,
/// - `amq.gen-…`, queues that RabbitMQ named: what RabbitMQ's tutorials use,
/// - `rpc.reply.…`, this library's own,
///
/// and to those that you add. A request with any other `reply_to` is logged, settled and not run.
///
/// ```
/// use rpc_runtime::ReplyAddresses;
///
/// let addresses = ReplyAddresses::default().allow_prefix("billing.replies.").allow("legacy_replies");
/// assert!(addresses.allows("amq.gen-x1"));
/// assert!(addresses.allows("billing.replies.7"));
/// assert!(!addresses.allows("payments"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplyAddresses {
    prefixes: Vec<String>,
    names: Vec<String>,
}

impl ReplyAddresses {
    /// Also allows the one queue of this name.
    #[must_use]
    pub fn allow(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Also allows all queues whose name begins so. An empty prefix allows every queue.
    #[must_use]
    pub fn allow_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.push(prefix.into());
        self
    }

    /// Whether a worker answers to this name.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        const BUILT_IN: [&str; 3] = ["amq.rabbitmq.reply-to.", "amq.gen-", REPLY_QUEUE_PREFIX];

        BUILT_IN.iter().any(|prefix| name.starts_with(prefix))
            || self.names.iter().any(|allowed| allowed == name)
            || self
                .prefixes
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reply_addresses_are_allowed() {
        let addresses = ReplyAddresses::default();
        assert!(addresses.allows("amq.rabbitmq.reply-to.g1h2AA5y/Q==.abc"));
        assert!(addresses.allows("amq.gen-JzTY20BRgKO-HjmUJj0wLg"));
        assert!(addresses.allows("rpc.reply.00000000-0000-4000-8000-000000000000"));
        assert!(!addresses.allows("rpc_queue"));
        assert!(!addresses.allows(""));
        assert!(!addresses.allows("amq.rabbitmq.reply-to"));
        assert!(!addresses.allows("x.amq.gen-1"));
    }
}
