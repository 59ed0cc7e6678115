//! A running child.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{Answer, Order};
use crate::contenders::LIMIT;

/// The program of this process, even if the file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// How long a child may take to end: it stops its workers first.
const END_LIMIT: Duration = LIMIT.saturating_add(Duration::from_secs(5));

/// A child. It is killed if it is dropped, and ends by itself if this process is gone.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts this program once more.
    pub(crate) fn start_own() -> anyhow::Result<Self> {
        Self::start(Path::new(OWN_PROGRAM))
    }

    /// Starts a program that [runs as a child](crate::run_as_child).
    pub(crate) fn start(program: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg("--child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let input = child.stdin.take().context("it has a standard input")?;
        let output = child.stdout.take().context("it has a standard output")?;
        Ok(Self {
            child,
            input,
            answers: BufReader::new(output).lines(),
        })
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> anyhow::Result<i32> {
        let id = self.child.id().context("the process has ended")?;
        Ok(i32::try_from(id)?)
    }

    /// Sends an order and waits for the answer. A child reads only one order.
    pub(crate) async fn order(&mut self, order: &Order, limit: Duration) -> anyhow::Result<Answer> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        let asking = async {
            self.input.write_all(line.as_bytes()).await?;
            let answer = self.answers.next_line().await?;
            answer.context("a process ended without an answer: its error is above")
        };
        let answer = timeout(limit, asking)
            .await
            .with_context(|| format!("a process did not answer within {limit:?}"))??;
        serde_json::from_str(&answer).with_context(|| format!("a process answered {answer:?}"))
    }

    /// Closes the child's standard input, and waits until the child has ended. Fails if the child
    /// has failed.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let status = timeout(END_LIMIT, self.child.wait())
            .await
            .with_context(|| format!("a process did not end within {END_LIMIT:?}"))??;
        ensure!(status.success(), "a process failed: {status}");
        Ok(())
    }
}
