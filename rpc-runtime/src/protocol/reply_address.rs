//! The queues that a worker may send replies to.

/// The pseudo-queue of RabbitMQ's [direct reply-to](https://www.rabbitmq.com/docs/direct-reply-to).
pub(crate) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The prefix of the names of this library's resumable reply queues.
pub(crate) const REPLY_QUEUE_PREFIX: &str = "rpc.reply.";

/// The addresses that a worker sends replies to.
///
/// The sender of a request chooses its `reply_to`, and a worker may publish to the default
/// exchange. Without a restriction, anyone who can send a request could make the worker write to
/// any queue. So a worker replies only to names that have the form of a reply address:
///
/// - `amq.rabbitmq.reply-to.…`: direct reply-to,
/// - `amq.gen-…`: queue names that RabbitMQ generates, as in RabbitMQ's tutorials,
/// - `rpc.reply.…`: this library's own reply queues,
/// - `amq_` and 32 lower-case hexadecimal digits: queue names that aio-pika's robust connections
///   generate,
///
/// and to those that you add. Celery and kombu use UUIDs as names of reply queues: allow them with
/// [`allow_uuids`](Self::allow_uuids). A request with any other `reply_to` is logged, rejected and
/// not run.
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
    uuids: bool,
}

impl ReplyAddresses {
    /// Also allows the queue of this name.
    #[must_use]
    pub fn allow(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Also allows all queues whose names have this prefix. An empty prefix allows every queue.
    #[must_use]
    pub fn allow_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.push(prefix.into());
        self
    }

    /// Also allows all queues whose name is a UUID in lower case with hyphens, as kombu and Celery
    /// name their reply queues.
    ///
    /// Anyone who can send a request can then make the worker write to any queue with such a name.
    /// Do not use it if UUIDs also name queues of another kind.
    #[must_use]
    pub fn allow_uuids(mut self) -> Self {
        self.uuids = true;
        self
    }

    /// Whether a worker replies to this queue.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        const BUILT_IN_PREFIXES: [&str; 3] = ["amq.rabbitmq.reply-to.", "amq.gen-", REPLY_QUEUE_PREFIX];

        BUILT_IN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || is_generated_by_aio_pika(name)
            || (self.uuids && is_uuid(name))
            || self.names.iter().any(|allowed| allowed == name)
            || self
                .prefixes
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
    }
}

/// Whether the name has the form of aio-pika's: `amq_` and a UUID without hyphens.
fn is_generated_by_aio_pika(name: &str) -> bool {
    name.strip_prefix("amq_")
        .is_some_and(|id| id.len() == 32 && id.bytes().all(is_lower_hex))
}

fn is_uuid(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => is_lower_hex(byte),
        })
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of kombu only with `allow_uuids`.
    #[test]
    fn only_reply_addresses_are_allowed() {
        let (by_default, with_uuids) = (ReplyAddresses::default(), ReplyAddresses::default().allow_uuids());
        let uuid = "3f2a1c9e-8d4b-3b6f-9a51-7a2f1f0c4d11";
        for (name, default, uuids) in [
            ("amq.rabbitmq.reply-to.g1h2AA5y/Q==.abc", true, true),
            ("amq.gen-JzTY20BRgKO-HjmUJj0wLg", true, true),
            ("rpc.reply.00000000-0000-4000-8000-000000000000", true, true),
            ("rpc_queue", false, false),
            ("", false, false),
            ("amq.rabbitmq.reply-to", false, false),
            ("x.amq.gen-1", false, false),
            ("amq_5ee4ef3a6d5f4c8ab4e1bb2a6a1b9a50", true, true),
            (uuid, false, true),
            ("amq_orders", false, false),
            ("amq_5ee4ef3a6d5f4c8ab4e1bb2a6a1b9a5", false, false),
            ("amq_5EE4EF3A6D5F4C8AB4E1BB2A6A1B9A50", false, false),
            ("3f2a1c9e8d4b3b6f9a517a2f1f0c4d11", false, false),
            ("orders-3f2a1c9e-8d4b-3b6f-9a51-7a2f1f0c4d11", false, false),
        ] {
            assert_eq!(by_default.allows(name), default, "{name}");
            assert_eq!(with_uuids.allows(name), uuids, "{name}");
        }
    }
}
