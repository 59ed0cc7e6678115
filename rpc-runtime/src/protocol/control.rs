//! Names and limits of the control exchange, through which peers reach one worker, all workers of a
//! queue, or all workers.

/// The durable direct exchange for control messages. The routing key is the id of a worker, alone
/// or with [`INCOMING_SUFFIX`](super::INCOMING_SUFFIX), the name of a request queue, or
/// [`DISCOVERY_KEY`].
pub(crate) const CONTROL_EXCHANGE: &str = "rpc.control";

/// The routing key of discovery requests. No request queue has this name.
pub(crate) const DISCOVERY_KEY: &str = "rpc.discovery";

/// The header that says which worker sent a reply to a broadcast or a message of a stream: a
/// [`Worker`] in JSON, or its id alone. For a stream, it has only the id of the worker, and `run`,
/// the number of the stream.
///
/// [`Worker`]: crate::describe::Worker
pub(crate) const WORKER_HEADER: &str = "rpc-worker";

/// The longest value of [`WORKER_HEADER`], in bytes. A longer one is replaced by the id alone.
pub(crate) const MAX_WORKER_HEADER: usize = 1024;

/// The largest arguments of a broadcast, in bytes. Each worker's queue for control messages holds
/// 8 MiB.
pub(crate) const MAX_BROADCAST_BYTES: usize = 1024 * 1024;
