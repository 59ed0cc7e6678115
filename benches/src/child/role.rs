//! What a child does.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, bail};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Answer, Order};
use crate::contenders::{LIMIT, stop};

/// The standard input: an order, and nothing else until the parent wants this process to end, or is
/// gone.
struct Input {
    order: oneshot::Receiver<String>,
    end: oneshot::Receiver<()>,
}

impl Input {
    /// Reads on a thread of its own, which the end of this process does not wait for.
    fn open() -> Self {
        let (order_sender, order) = oneshot::channel();
        let (end_sender, end) = oneshot::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // After an error, the line is empty or incomplete, which is no order.
            let _ = std::io::stdin().read_line(&mut line);
            let _ = order_sender.send(line);
            let mut rest = [0; 64];
            while matches!(std::io::stdin().read(&mut rest), Ok(1..)) {}
            drop(end_sender);
        });
        Self { order, end }
    }

    async fn order(&mut self) -> anyhow::Result<Order> {
        let line = timeout(LIMIT, &mut self.order)
            .await
            .with_context(|| format!("no order came within {LIMIT:?}"))??;
        serde_json::from_str(&line).context("this is no order")
    }

    async fn end(&mut self) {
        // The thread drops the sender, and sends no value.
        let _ = (&mut self.end).await;
    }
}

/// Reads an order, carries it out, and answers. Workers run on after the answer, until the input
/// ends.
pub(crate) async fn run() -> anyhow::Result<()> {
    let mut input = Input::open();
    match input.order().await? {
        Order::Work {
            contender,
            broker,
            queue,
            scenario,
        } => {
            let workers = contender.start_workers(&broker, &queue, &scenario).await?;
            answer(&Answer::Ready)?;
            input.end().await;
            stop(workers).await
        }
        Order::Measure {
            contender,
            broker,
            load,
        } => {
            let measured = tokio::select! {
                measured = contender.measure(&broker, &load) => measured?,
                () = input.end() => bail!("the parent process does not wait for the end"),
            };
            answer(&Answer::Measured(measured))
        }
    }
}

fn answer(answer: &Answer) -> anyhow::Result<()> {
    let line = serde_json::to_string(answer)?;
    writeln!(std::io::stdout(), "{line}").context("the parent process is gone")
}
