//! The service under test, and its implementation, which records each run.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use rpc_runtime::{Context, service};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::history::{Journal, Record, now};

pub(crate) const QUEUE: &str = "torture";

/// The queue of the hostile peer.
pub(crate) const TRAP: &str = "torture-trap";

/// The queue of batched calls.
pub(crate) const BATCHED: &str = "torture.batch";

#[service(queue = "torture")]
pub(crate) trait Torture {
    #[rpc(idempotent)]
    async fn read(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    async fn write(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    /// Like `read`, but without delay, so that it is batched.
    #[rpc(idempotent)]
    async fn peek(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    /// Like `write`, but without delay.
    async fn jot(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    #[rpc(oneway)]
    async fn note(&self, #[rpc(context)] cx: &Context, job: &Job);
    #[rpc(broadcast)]
    async fn survey(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    #[rpc(broadcast, oneway)]
    async fn announce(&self, #[rpc(context)] cx: &Context, job: &Job);
    /// Yields as many rows as the job wants.
    fn list(&self, job: &Job) -> impl Stream<Item = Result<Row, Refused>>;
}

/// The arguments of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) call: String,
    /// How long the method runs.
    pub(crate) work_ms: u64,
    pub(crate) ending: Ending,
    pub(crate) payload: Bytes,
    /// The size of the result, or the number of rows.
    pub(crate) wanted: usize,
}

/// An item of a stream.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) call: String,
    pub(crate) run: String,
    pub(crate) number: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    Answer,
    Refuse,
    Panic,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) call: String,
    pub(crate) run: String,
    /// The checksum of the payload that arrived.
    pub(crate) checksum: u64,
    pub(crate) payload: Bytes,
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("refused as asked, by run {run} of {call}")]
pub(crate) struct Refused {
    pub(crate) call: String,
    pub(crate) run: String,
}

/// Does what each job requests.
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) journal: Journal,
}

impl Worker {
    /// Records the start of a run. Returns its name.
    fn begin(&self, method: &str, redelivered: bool, job: &Job) -> String {
        let run = format!("{}/{}", self.name, self.journal.next());
        self.journal.write(&Record::RunStarted {
            at: now(),
            call: job.call.clone(),
            run: run.clone(),
            method: method.to_owned(),
            redelivered,
        });
        run
    }

    async fn work(&self, method: &str, cx: &Context, job: &Job) -> Result<Done, Refused> {
        let run = self.begin(method, cx.redelivered(), job);
        let call = job.call.clone();
        if job.work_ms > 0 {
            sleep(Duration::from_millis(job.work_ms)).await;
        }
        self.journal.write(&Record::RunEnded {
            at: now(),
            call: call.clone(),
            run: run.clone(),
        });
        match job.ending {
            Ending::Answer => Ok(Done {
                call,
                run,
                checksum: checksum(&job.payload),
                payload: vec![7; job.wanted].into(),
            }),
            Ending::Refuse => Err(Refused { call, run }),
            Ending::Panic => panic!("as asked, in run {run} of {call}"),
        }
    }
}

impl Torture for Worker {
    async fn read(&self, cx: &Context, job: &Job) -> Result<Done, Refused> {
        self.work("read", cx, job).await
    }

    async fn write(&self, cx: &Context, job: &Job) -> Result<Done, Refused> {
        self.work("write", cx, job).await
    }

    async fn peek(&self, cx: &Context, job: &Job) -> Result<Done, Refused> {
        self.work("peek", cx, job).await
    }

    async fn jot(&self, cx: &Context, job: &Job) -> Result<Done, Refused> {
        self.work("jot", cx, job).await
    }

    async fn note(&self, cx: &Context, job: &Job) {
        let _ = self.work("note", cx, job).await;
    }

    async fn survey(&self, cx: &Context, job: &Job) -> Result<Done, Refused> {
        self.work("survey", cx, job).await
    }

    async fn announce(&self, cx: &Context, job: &Job) {
        let _ = self.work("announce", cx, job).await;
    }

    fn list(&self, job: &Job) -> impl Stream<Item = Result<Row, Refused>> {
        let run = self.begin("list", false, job);
        stream::unfold(Some(0), move |number| {
            let (call, run) = (job.call.clone(), run.clone());
            async move {
                let number = number?;
                if number == job.wanted / 2 && job.work_ms > 0 {
                    sleep(Duration::from_millis(job.work_ms)).await;
                }
                if number < job.wanted {
                    return Some((Ok(Row { call, run, number }), Some(number + 1)));
                }
                self.journal.write(&Record::RunEnded {
                    at: now(),
                    call: call.clone(),
                    run: run.clone(),
                });
                match job.ending {
                    Ending::Answer => None,
                    Ending::Refuse => Some((Err(Refused { call, run }), None)),
                    Ending::Panic => panic!("as asked, in run {run} of {call}"),
                }
            }
        })
    }
}

/// Computes the FNV-1a hash.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
