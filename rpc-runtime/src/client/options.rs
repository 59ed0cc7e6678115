//! The options of a broker handle that apply to its calls.

use crate::protocol::ShortStr;
use crate::transport::ReplyQueue;

/// The options of a broker handle that apply to all its calls.
#[derive(Debug, Clone)]
pub(crate) struct CallerOptions {
    pub(crate) reply_queue: ReplyQueue,
    /// The largest body of a message that is sent.
    pub(crate) max_sent_bytes: usize,
    /// The largest body of a reply that is accepted.
    pub(crate) max_accepted_bytes: usize,
    pub(crate) app_id: Option<ShortStr>,
    pub(crate) user_id: Option<ShortStr>,
}
