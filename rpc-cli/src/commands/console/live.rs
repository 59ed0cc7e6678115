//! The stream from which a page learns what runs.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::collector::{Collector, Latest};

/// Returns the lines for a page. First come what does not change, the services and the samples that
/// are kept. Each new round follows, with the services before it if they have changed. A page that
/// reads slowly misses rounds, but not the last one.
pub(super) fn lines(
    hello: Arc<str>,
    collector: &Collector,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = String> + Send + use<> {
    let mut latest = collector.subscribe();
    let known = latest.borrow_and_update().clone();
    let mut first = vec![hello, Arc::clone(&known.catalog)];
    first.extend(collector.samples());
    let first = first.iter().map(|line| format!("{line}\n")).collect::<String>();
    let state = LiveLines {
        first: Some(first),
        catalog: known.catalog,
        latest,
        _permit: permit,
    };
    stream::unfold(state, async |mut rest| {
        let lines = rest.next().await?;
        Some((lines, rest))
    })
}

/// The lines that a page has not got yet.
struct LiveLines {
    /// The lines with which it begins. `None` once it has them.
    first: Option<String>,
    /// The services that the page knows.
    catalog: Arc<str>,
    latest: watch::Receiver<Latest>,
    /// The page counts as open until this is dropped.
    _permit: OwnedSemaphorePermit,
}

impl LiveLines {
    /// Returns the next lines, or `None` if there will be none.
    async fn next(&mut self) -> Option<String> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        self.latest.changed().await.ok()?;
        let latest = self.latest.borrow_and_update().clone();
        let mut lines = String::new();
        if latest.catalog != self.catalog {
            lines = format!("{}\n", latest.catalog);
            self.catalog = latest.catalog;
        }
        lines.push_str(&latest.line);
        lines.push('\n');
        Some(lines)
    }
}
