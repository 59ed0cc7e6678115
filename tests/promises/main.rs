//! What the library promises, a module a promise, against a real RabbitMQ and against the
//! in-process broker.

mod batching;
mod broadcasts;
mod calls;
mod cancellation;
mod dead_letters;
mod discovery;
mod dynamic;
mod exclusive_workers;
mod failures;
mod hostile;
mod idempotency;
mod incoming;
mod interop;
mod job_batches;
mod jobs;
mod limits;
mod load;
mod logs;
mod matrix;
mod middleware;
mod names;
mod overload;
mod panics;
mod permissions;
mod queues;
mod recovery;
mod resumption;
mod runtimes;
mod self_description;
mod settling;
mod stream_layers;
mod streams;
mod streams_interop;
mod tls;
mod wire;
