//! Tells the runs of a method from each other. Pure.
//!
//! A request that is delivered again may run again, on another worker or on the same one. The
//! messages of both runs reach the caller, and a stream must not have items of both.

use std::cmp::Ordering;

use serde::Deserialize;

/// Who sends a message, compared with the run whose stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The same run.
    SameRun,
    /// An earlier run on the same worker, which has ended.
    EarlierRun,
    /// A later run on the same worker. A worker never runs a request twice at a time for the same
    /// reply address, so the run whose stream is read has ended, or sends to another address.
    LaterRun,
    /// Another worker, or nobody knows who.
    OtherWorker,
}

/// What the header `rpc-worker` of a stream's message says about its run.
#[derive(Deserialize)]
struct Sender {
    id: String,
    /// Higher than that of each stream that the worker began before. Some workers send none: all
    /// runs of such a worker count as the same.
    #[serde(default)]
    run: u64,
}

/// Compares the header of a message with that of the run whose stream is read.
pub(super) fn origin(of_message: &str, of_stream: &str) -> Origin {
    if of_message == of_stream {
        return Origin::SameRun;
    }
    let parse = |header| serde_json::from_str::<Sender>(header).ok();
    let (Some(message), Some(stream)) = (parse(of_message), parse(of_stream)) else {
        return Origin::OtherWorker;
    };
    if message.id != stream.id {
        return Origin::OtherWorker;
    }
    match message.run.cmp(&stream.run) {
        Ordering::Less => Origin::EarlierRun,
        Ordering::Equal => Origin::SameRun,
        Ordering::Greater => Origin::LaterRun,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_numbers_its_runs() {
        let (first, second) = (r#"{"id":"a","run":1}"#, r#"{"id":"a","run":2}"#);
        assert_eq!(origin(first, first), Origin::SameRun);
        assert_eq!(origin(second, first), Origin::LaterRun);
        assert_eq!(origin(first, second), Origin::EarlierRun);
        assert_eq!(origin(r#"{"run":2,"id":"a"}"#, second), Origin::SameRun);
        assert_eq!(origin(second, r#"{"id":"a"}"#), Origin::LaterRun);
        for other in [r#"{"id":"b","run":2}"#, r#"{"id":"a","run":-2}"#, "", "b", "{}"] {
            assert_eq!(origin(other, first), Origin::OtherWorker, "{other}");
        }
    }
}
