//! The threads of a caller and its workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::task::{JoinHandle, spawn_blocking};

use super::super::{Running, Stop};
use crate::load::Load;
use crate::measure::{Measured, Recorder};

/// Makes calls until the recorder is over.
pub(super) type CallerLoop = Box<dyn FnOnce(&Recorder) -> anyhow::Result<()> + Send>;

/// Works until the flag is set.
pub(super) type WorkerLoop = Box<dyn FnOnce(&AtomicBool) -> anyhow::Result<()> + Send>;

/// Workers that run, and a caller that can run once.
pub(super) struct RunningSockets {
    /// `None` once it has begun.
    caller: Mutex<Option<CallerLoop>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl RunningSockets {
    /// Starts the workers. The caller begins in [`run`](Running::run).
    pub(super) fn start(caller: CallerLoop, workers: Vec<WorkerLoop>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |worker: WorkerLoop| {
            let stop = Arc::clone(&stop);
            spawn_blocking(move || worker(&stop))
        };
        Self {
            caller: Mutex::new(Some(caller)),
            workers: workers.into_iter().map(start).collect(),
            stop,
        }
    }
}

#[async_trait]
impl Running for RunningSockets {
    async fn run(&self, load: &Load) -> anyhow::Result<Measured> {
        let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner).take();
        let caller = caller.context("sockets run once")?;
        let recorder = Recorder::new();
        let calling = spawn_blocking({
            let recorder = Arc::clone(&recorder);
            move || caller(&recorder)
        });
        let failure = async {
            match calling.await {
                Ok(Ok(())) => anyhow::anyhow!("the caller ended early"),
                Ok(Err(error)) => error,
                Err(panicked) => panicked.into(),
            }
        };
        let measured = load.watch(&recorder, load.scenario.in_flight, failure).await;
        recorder.end();
        measured
    }
}

#[async_trait]
impl Stop for RunningSockets {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await?.context("a worker failed")?;
        }
        Ok(())
    }
}
