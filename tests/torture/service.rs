//! The service under test, and its implementation, which records each run.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use rpc_runtime::{Context, Incoming, IncomingError, service};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::history::{End, Journal, Received, Record, now};

/// The request queue, of calls or of jobs.
pub(crate) const QUEUE: &str = "torture";

/// The queue of the hostile peer, which callers call so that it learns their reply addresses.
pub(crate) const TRAP: &str = "torture-trap";

/// The queue of batched calls.
pub(crate) const BATCHED: &str = "torture.batch";

/// A method that yields or receives a stream works before each group of this many items.
const STEP: usize = 500;

#[service(queue = "torture")]
pub(crate) trait Torture {
    #[rpc(idempotent)]
    async fn read(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    async fn write(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    /// Like `read`, but takes no time, so that it can be batched.
    #[rpc(idempotent)]
    async fn peek(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    /// Like `write`, but takes no time.
    async fn jot(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    #[rpc(oneway)]
    async fn note(&self, #[rpc(context)] cx: &Context, job: &Job);
    #[rpc(broadcast)]
    async fn survey(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<Done, Refused>;
    #[rpc(broadcast, oneway)]
    async fn announce(&self, #[rpc(context)] cx: &Context, job: &Job);
    /// Yields as many rows as the job wants, and then ends as the job says.
    fn list(&self, job: &Job) -> impl Stream<Item = Result<Row, Refused>>;
    /// Like `list`, but if it is interrupted, another run goes on after the last row that arrived.
    #[rpc(idempotent)]
    fn follow(
        &self,
        job: &Job,
        #[rpc(resume)] after: Option<Row>,
    ) -> impl Stream<Item = Result<Row, Refused>>;
    /// Takes at most as many parts as the job wants.
    async fn store(
        &self,
        #[rpc(context)] cx: &Context,
        job: &Job,
        parts: Incoming<Part>,
    ) -> Result<Stored, Refused>;
}

/// The arguments of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) call: String,
    /// How long the method runs, or works before each [`STEP`] of a stream.
    pub(crate) work_ms: u64,
    pub(crate) ending: Ending,
    pub(crate) payload: Bytes,
    /// The size of the result, the number of rows, or the largest number of parts to take.
    pub(crate) wanted: usize,
}

/// An item of a stream that a method returns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) call: String,
    pub(crate) run: String,
    pub(crate) number: usize,
}

/// An item of a stream that a method receives.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) call: String,
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

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) call: String,
    pub(crate) run: String,
    pub(crate) received: Received,
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
        let run = format!("{}/{}", self.name, self.journal.next_number());
        self.journal.write(&Record::RunStarted {
            at: now(),
            call: job.call.clone(),
            run: run.clone(),
            method: method.to_owned(),
            redelivered,
        });
        run
    }

    /// Runs a method without streams, which ends as the job says. Records the end before it returns
    /// or panics.
    async fn work(&self, method: &str, cx: &Context, job: &Job) -> Result<Done, Refused> {
        let run = self.begin(method, cx.redelivered(), job);
        let call = job.call.clone();
        spend(job).await;
        self.end(job, &run);
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

    /// Records the end of a run.
    fn end(&self, job: &Job, run: &str) {
        self.journal.write(&Record::RunEnded {
            at: now(),
            call: job.call.clone(),
            run: run.to_owned(),
        });
    }

    /// Starts a run that yields the rows of a job from the number `first` on, and then ends as the
    /// job says. The end of a stream that is dropped before is not recorded.
    fn rows(&self, method: &str, job: &Job, first: usize) -> impl Stream<Item = Result<Row, Refused>> {
        // Without a context, it is not known whether the request was redelivered.
        let run = self.begin(method, false, job);
        stream::unfold(Some(first), move |number| {
            let (call, run) = (job.call.clone(), run.clone());
            async move {
                let number = number?;
                if number.is_multiple_of(STEP) {
                    spend(job).await;
                }
                if number < job.wanted {
                    return Some((Ok(Row { call, run, number }), Some(number + 1)));
                }
                self.end(job, &run);
                match job.ending {
                    Ending::Answer => None,
                    Ending::Refuse => Some((Err(Refused { call, run }), None)),
                    Ending::Panic => panic!("as asked, in run {run} of {call}"),
                }
            }
        })
    }
}

/// Takes as much time as a job says.
async fn spend(job: &Job) {
    if job.work_ms > 0 {
        sleep(Duration::from_millis(job.work_ms)).await;
    }
}

/// Records what a run has received, when it ends or is dropped.
struct Receiving<'a> {
    journal: &'a Journal,
    call: &'a str,
    run: &'a str,
    received: Received,
}

impl Receiving<'_> {
    /// Takes parts until the end, an error, or as many as the job wants. Returns which it was.
    async fn take(&mut self, job: &Job, mut parts: Incoming<Part>) -> End {
        while self.received.items < job.wanted {
            if self.received.items.is_multiple_of(STEP) {
                spend(job).await;
            }
            match parts.next().await {
                Some(Ok(Part { call, number })) => {
                    self.received.in_order &= call == job.call && number == self.received.items;
                    self.received.items += 1;
                }
                Some(Err(IncomingError::Interrupted)) => return End::Interrupted,
                Some(Err(error)) => return End::Wrong(error.to_string()),
                None => return End::Regular,
            }
        }
        End::Enough
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.journal.write(&Record::RunLeft {
            at: now(),
            call: self.call.to_owned(),
            run: self.run.to_owned(),
            received: self.received.clone(),
        });
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
        self.rows("list", job, 0)
    }

    fn follow(&self, job: &Job, after: Option<Row>) -> impl Stream<Item = Result<Row, Refused>> {
        self.rows("follow", job, after.map_or(0, |row| row.number + 1))
    }

    async fn store(&self, cx: &Context, job: &Job, parts: Incoming<Part>) -> Result<Stored, Refused> {
        let run = self.begin("store", cx.redelivered(), job);
        let mut receiving = Receiving {
            journal: &self.journal,
            call: &job.call,
            run: &run,
            received: Received::default(),
        };
        let end = receiving.take(job, parts).await;
        receiving.received.end = Some(end.clone());
        self.end(job, &run);
        let (call, received) = (job.call.clone(), receiving.received.clone());
        drop(receiving);
        match job.ending {
            // An interrupted run returns what it received, so that its caller can tell.
            Ending::Refuse if end != End::Interrupted => Err(Refused { call, run }),
            Ending::Panic => panic!("as asked, in run {run} of {call}"),
            _ => Ok(Stored { call, run, received }),
        }
    }
}

/// Computes the FNV-1a hash.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
