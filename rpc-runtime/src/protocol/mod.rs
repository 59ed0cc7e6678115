//! The wire protocol: converts requests, replies, faults, batches and streams to messages and back.
//!
//! Pure: no I/O, no tasks, no clock. The transport sends and receives the messages.
//! `docs/protocol.md` describes the protocol for peers in other languages.

mod arguments;
mod batch;
pub(crate) mod content;
mod control;
mod dead_lettered;
mod executed;
mod fault;
mod headers;
mod incoming;
mod invalid_name;
mod item_list;
mod job;
mod malformed;
mod message;
mod overload;
mod queue_name;
mod reply;
mod reply_address;
mod request;
mod request_id;
mod reserved_header;
mod short_str;
mod stored;
mod stream;
mod user_header;
mod volume;

pub(crate) use arguments::{ArgumentsSeed, NamedArguments, decode_empty_body};
pub use arguments::{DecodeArguments, Derived, EncodeArguments};
pub(crate) use batch::{
    BATCH_HEADER, BATCH_SUFFIX, BATCH_TYPE, BatchedCall, BatchedCallRef, BatchedReply, Batcher, CANCEL_TYPE,
    CancelledCall, Load, MAX_BATCH_BYTES, MAX_BATCH_CALLS, MAX_PART_BYTES, fair_share, headers_size,
    read_batch, receive_more, write_batch,
};
pub(crate) use control::{
    CONTROL_EXCHANGE, DISCOVERY_KEY, MAX_BROADCAST_BYTES, MAX_WORKER_HEADER, WORKER_HEADER,
};
pub(crate) use dead_lettered::{DEATHS_HEADER, DeadLettered, DeathReason, FIRST_DEATH_REASON_HEADER};
pub use executed::Executed;
pub use fault::{Fault, FaultCode};
pub use headers::{Headers, HeadersIntoIter, HeadersIter};
pub(crate) use incoming::{Asks, INCOMING_SUFFIX, IncomingGrant, MAX_INCOMING_BYTES, MAX_UNTAKEN_BYTES};
pub use invalid_name::InvalidName;
pub(crate) use item_list::{ItemList, ItemWriter, detach};
#[cfg(feature = "opentelemetry")]
pub(crate) use job::TRACEPARENT;
pub(crate) use job::{
    DELAY_HEADER, FIRST_TRACE_HEADER, MAX_DELAY, REASON_HEADER, failed_attempts, is_given_up, limit_headers,
    mark_given_up, record_failure, record_origin_queue, record_trace, record_user, remaining_delay,
    set_remaining_delay, since_last_failure,
};
pub(crate) use malformed::{MAX_HEADER_DEPTH, Malformed, Property};
pub(crate) use message::{Message, Properties, body_of};
pub(crate) use overload::{PROBE_TYPE, QueueTime, RETRY_AFTER_HEADER, read_millis, write_millis};
pub(crate) use queue_name::{check_destination_name, check_queue_name};
pub(crate) use reply::{BadReply, Reply, ReplyKind};
pub use reply_address::ReplyAddresses;
pub(crate) use reply_address::{DIRECT_REPLY_TO, REPLY_QUEUE_PREFIX};
pub(crate) use request::{
    COPY_HEADER, MAX_TIME_TO_LIVE, REDELIVERIES_HEADER, RESENT_BY_CALLER_AND_WORKER, RESENT_BY_WORKER,
    RESENT_HEADER, Request, UnreadableRequest,
};
pub(crate) use request_id::random_id;
pub use request_id::{InvalidRequestId, RequestId};
pub(crate) use reserved_header::{check_not_reserved, is_rabbitmqs_header};
pub(crate) use short_str::{MAX_SHORT_STR, ShortStr};
pub use stored::StoredFormatError;
pub(crate) use stored::{read_stored, write_stored};
pub(crate) use stream::{
    CREDIT_TYPE, Grant, ITEMS_HEADER, ITEMS_TYPE, Items, MAX_CREDIT, MAX_GRANTS, MAX_ITEM_FRAME_BYTES,
    MAX_ITEMS, MAX_ITEMS_BYTES, read_grants, write_grants,
};
pub(crate) use user_header::{InvalidHeader, insert_user_header};
pub(crate) use volume::Volume;
