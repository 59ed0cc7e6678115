//! The history: each process appends to its own journal, and the parent reads all journals.
//!
//! A record is one line. The call or run that it is about goes on only once it is written. So a
//! killed process loses at most the record that it was writing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Microseconds since 1970, from the clock that all processes share.
pub(crate) type Micros = u64;

pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Method {
    /// Idempotent. Also stands for `peek`.
    Read,
    /// Not idempotent. Also stands for `jot`.
    Write,
    /// One-way, not idempotent.
    Note,
    /// A broadcast.
    Survey,
    /// A one-way broadcast.
    Announce,
    /// A stream, not idempotent.
    List,
    /// An idempotent stream, which is resumed if it is interrupted.
    Follow,
    /// Receives a stream, not idempotent.
    Store,
}

impl Method {
    /// Whether every worker runs it.
    pub(crate) fn is_broadcast(self) -> bool {
        matches!(self, Self::Survey | Self::Announce)
    }

    /// Whether items are sent while it runs.
    pub(crate) fn is_stream(self) -> bool {
        matches!(self, Self::List | Self::Follow | Self::Store)
    }
}

/// The form of `Executed` in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Ran {
    No,
    Maybe,
    Yes,
}

/// The parts that a run has received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) items: usize,
    /// Whether they are those of the call, without gaps or duplicates.
    pub(crate) in_order: bool,
    /// `None` while the run takes more, and if it was dropped before it stopped.
    pub(crate) end: Option<End>,
}

impl Default for Received {
    fn default() -> Self {
        Self {
            items: 0,
            in_order: true,
            end: None,
        }
    }
}

/// Why a run takes no more parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// The stream has ended without an error.
    Regular,
    /// It has as many as the job wants.
    Enough,
    /// `IncomingError::Interrupted`: the caller seems to be gone.
    Interrupted,
    /// Another error, which no fault may cause.
    Wrong(String),
}

/// How a call ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// `ok`, `service`, `timed_out`, the code of a fault, or another name from `caller.rs`.
    pub(crate) kind: String,
    pub(crate) executed: Ran,
    /// The run that produced the reply, if the caller knows it.
    pub(crate) run: Option<String>,
    pub(crate) error: Option<String>,
    /// What each worker answered to a broadcast, by the worker's name.
    pub(crate) answers: Vec<(String, Outcome)>,
}

impl Outcome {
    pub(crate) fn named(kind: &str, executed: Ran) -> Self {
        Self {
            kind: kind.to_owned(),
            executed,
            run: None,
            error: None,
            answers: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Record {
    Called {
        at: Micros,
        call: String,
        handle: String,
        method: Method,
        limit_us: u64,
        work_ms: u64,
        /// The size of the arguments, or the number of parts.
        sent: usize,
        /// How many workers should answer, if it is a broadcast and its caller says. Has no
        /// meaning for other methods.
        expected: Option<usize>,
        /// Whether the caller knew that all faults were healed, so that the call must succeed.
        fresh: bool,
    },
    Ended {
        at: Micros,
        call: String,
        /// Measured by a monotonic clock.
        took_us: u64,
        outcome: Outcome,
    },
    RunStarted {
        at: Micros,
        call: String,
        run: String,
        method: String,
        redelivered: bool,
    },
    RunEnded {
        at: Micros,
        call: String,
        run: String,
    },
    /// A run that receives parts has ended or was dropped.
    RunLeft {
        at: Micros,
        call: String,
        run: String,
        received: Received,
    },
}

impl Record {
    pub(crate) fn at(&self) -> Micros {
        match self {
            Self::Called { at, .. }
            | Self::Ended { at, .. }
            | Self::RunStarted { at, .. }
            | Self::RunEnded { at, .. }
            | Self::RunLeft { at, .. } => *at,
        }
    }

    fn call(&self) -> &str {
        match self {
            Self::Called { call, .. }
            | Self::Ended { call, .. }
            | Self::RunStarted { call, .. }
            | Self::RunEnded { call, .. }
            | Self::RunLeft { call, .. } => call,
        }
    }

    /// The run, if it is a worker's record.
    fn run(&self) -> Option<&str> {
        match self {
            Self::Called { .. } | Self::Ended { .. } => None,
            Self::RunStarted { run, .. } | Self::RunEnded { run, .. } | Self::RunLeft { run, .. } => {
                Some(run)
            }
        }
    }
}

/// The journal of one process.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Mutex<File>,
    last: AtomicU64,
}

impl Journal {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().append(true).create_new(true).open(path);
        Ok(Self {
            file: Mutex::new(file.with_context(|| format!("{} cannot be made", path.display()))?),
            last: AtomicU64::new(0),
        })
    }

    /// Returns a number that this process has not used.
    pub(crate) fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns once the operating system has the record.
    pub(crate) fn write<R: Serialize>(&self, record: &R) {
        let mut line = serde_json::to_vec(record).expect("a record is plain data");
        line.push(b'\n');
        let mut file = self.file.lock().expect("no writer panics");
        file.write_all(&line).expect("the journal can be written");
    }
}

/// Reads the records of all journals in a folder.
pub(crate) fn records<R: DeserializeOwned>(folder: &Path) -> anyhow::Result<Vec<R>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "journal") {
            let text = fs::read_to_string(&path)?;
            // Only the last line can be incomplete.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in whole.lines() {
                let record = serde_json::from_str(line);
                records.push(record.with_context(|| format!("in {}: {line}", path.display()))?);
            }
        }
    }
    Ok(records)
}

/// One run of a method.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) started: Micros,
    /// `None` if it was dropped, or its worker was killed.
    pub(crate) ended: Option<Micros>,
    /// When it ended or was dropped, and what it had received, if it receives parts.
    pub(crate) left: Option<(Micros, Received)>,
}

impl Run {
    /// The worker process, such as `w1.2`: the second process in the place of `w1`.
    pub(crate) fn worker(&self) -> &str {
        worker_of(&self.name)
    }
}

fn worker_of(run: &str) -> &str {
    run.split('/').next().unwrap_or_default()
}

/// Everything about one call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) at: Micros,
    pub(crate) handle: String,
    pub(crate) method: Method,
    pub(crate) limit_us: u64,
    pub(crate) sent: usize,
    pub(crate) expected: Option<usize>,
    pub(crate) fresh: bool,
    /// When it ended, how long it took by a monotonic clock, and how it ended. `None` if it never
    /// ended.
    pub(crate) ended: Option<(Micros, u64, Outcome)>,
    pub(crate) runs: Vec<Run>,
    pub(crate) records: Vec<Record>,
}

impl Call {
    pub(crate) fn deadline(&self) -> Micros {
        self.at + self.limit_us
    }

    /// When it ended, or its deadline if it never did.
    pub(crate) fn until(&self) -> Micros {
        self.ended.as_ref().map_or(self.deadline(), |(at, ..)| *at)
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.ended
            .as_ref()
            .is_some_and(|(.., outcome)| outcome.kind == kind)
    }
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) calls: BTreeMap<String, Call>,
    /// When each worker process wrote its last record.
    pub(crate) last_seen: BTreeMap<String, Micros>,
    /// Records about calls that no caller has recorded.
    pub(crate) strays: Vec<Record>,
}

impl History {
    /// Reads all journals in a folder.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self::from_records(records(folder)?))
    }

    pub(crate) fn from_records(mut records: Vec<Record>) -> Self {
        records.sort_by_key(Record::at);
        let mut history = Self::default();
        // Calls come first: if the clock was set back, a run seems earlier than its call.
        for record in &records {
            if let Record::Called {
                at,
                call,
                handle,
                method,
                limit_us,
                sent,
                expected,
                fresh,
                ..
            } = record
            {
                let called = Call {
                    at: *at,
                    handle: handle.clone(),
                    method: *method,
                    limit_us: *limit_us,
                    sent: *sent,
                    expected: *expected,
                    fresh: *fresh,
                    ended: None,
                    runs: Vec::new(),
                    records: Vec::new(),
                };
                history.calls.insert(call.clone(), called);
            }
        }
        for record in records {
            if let Some(run) = record.run() {
                history.last_seen.insert(worker_of(run).to_owned(), record.at());
            }
            match history.calls.get_mut(record.call()) {
                Some(call) => call.add(record),
                None => history.strays.push(record),
            }
        }
        history
    }
}

impl Call {
    fn add(&mut self, record: Record) {
        match &record {
            Record::Called { .. } => {}
            Record::Ended {
                at, took_us, outcome, ..
            } => {
                self.ended = Some((*at, *took_us, outcome.clone()));
            }
            Record::RunStarted { at, run, .. } => self.runs.push(Run {
                name: run.clone(),
                started: *at,
                ended: None,
                left: None,
            }),
            Record::RunEnded { at, run, .. } => {
                if let Some(run) = self.runs.iter_mut().find(|it| it.name == *run) {
                    run.ended = Some(*at);
                }
            }
            Record::RunLeft {
                at, run, received, ..
            } => {
                if let Some(run) = self.runs.iter_mut().find(|it| it.name == *run) {
                    run.left = Some((*at, received.clone()));
                }
            }
        }
        self.records.push(record);
    }
}
