//! The worker's side: a server consumes requests from its queues, runs their methods and replies.

mod batching;
mod builder;
mod built_in;
mod config;
mod control;
mod incoming_items;
mod job_queues;
mod jobs;
mod open_failure_log;
mod open_server;
mod outgoing_reply;
mod pending_acks;
mod queue_consumer;
mod queue_wait;
mod reply_channel;
mod reply_sender;
mod request_handler;
mod running_server;
mod streams;
mod worker_identity;

pub use builder::Server;
pub(crate) use config::BrokerParts;
pub(crate) use control::DISCOVERY_TIMEOUT;
#[cfg(any(test, fuzzing))]
pub(crate) use incoming_items::receive_fuzzed;
pub use running_server::RunningServer;
