//! The memory that streams take whose readers have stopped reading.

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::timeout;

use super::library::Library;
use super::system::{Ask, LIMIT, Reading, System as _};
use crate::bench::Bench;
use crate::memory::{live_bytes, settled_bytes};

/// How many streams nobody reads.
const STREAMS: u32 = 1000;

/// The caller asks for these streams. In practice, they do not end.
const ASK: Ask = Ask {
    items: u64::MAX,
    size: 1024,
};

/// How many more items of each stream are read at the end.
const MORE: u64 = 200;

/// What each stream takes, on average.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Unread {
    /// How many streams there are.
    streams: u32,
    item_bytes: u32,
    /// How many items its method has made.
    items: f64,
    /// Bytes that caller and worker have allocated.
    bytes: f64,
    /// Resident bytes of caller and worker.
    resident_bytes: f64,
    /// Messages in the queues of the broker.
    messages: f64,
    /// Bytes of these messages.
    message_bytes: f64,
}

/// Begins streams, reads an item of each, and measures what they take once nothing moves any more.
/// Fails if the streams do not go on when they are read again.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Unread> {
    let library = Library::start(bench.broker()).await?;
    // The first call and the first stream open channels, which do not count.
    library.client().echo(b"x").await?;
    Reading::begin(&library, Ask { items: 1, ..ASK })
        .await?
        .finish()
        .await?;
    settled_bytes().await?;
    let (bytes, resident) = (live_bytes()?, bench.snapshot()?.resident);

    let beginning = (0..STREAMS).map(async |_| {
        let mut reading = Reading::begin(&library, ASK).await?;
        ensure!(reading.next().await?, "a stream has no item");
        anyhow::Ok(reading)
    });
    let beginning = timeout(LIMIT, try_join_all(beginning)).await;
    let mut readings = beginning.with_context(|| format!("no first item within {LIMIT:?}"))??;
    let bytes = settled_bytes().await? - bytes;
    let resident = bench.snapshot()?.resident.saturating_sub(resident);
    let (messages, message_bytes) = bench.queued().await?;
    #[allow(clippy::cast_precision_loss)]
    let each = |total: u64| total as f64 / f64::from(STREAMS);
    let unread = Unread {
        streams: STREAMS,
        item_bytes: ASK.size,
        items: each(library.made()),
        bytes: each(bytes.max(0).unsigned_abs()),
        resident_bytes: each(resident),
        messages: each(messages),
        message_bytes: each(message_bytes),
    };

    // The streams go on.
    let reading = readings.iter_mut().map(async |reading| {
        for _ in 0..MORE {
            ensure!(reading.next().await?, "a stream ended");
        }
        anyhow::Ok(())
    });
    let reading = timeout(LIMIT, try_join_all(reading)).await;
    reading.with_context(|| format!("a stream did not go on within {LIMIT:?}"))??;
    drop(readings);
    library.stop().await?;
    Ok(unread)
}

impl Unread {
    /// Returns the figures as a sentence.
    pub(super) fn line(&self) -> String {
        let kib = |bytes: f64| bytes / 1024.0;
        format!(
            "{} streams of {} bytes an item that nobody reads, for each: {:.0} items made, {:.0} KiB allocated \
             and {:.0} KiB resident in caller and worker, {:.1} messages with {:.0} KiB in the broker",
            self.streams,
            self.item_bytes,
            self.items,
            kib(self.bytes),
            kib(self.resident_bytes),
            self.messages,
            kib(self.message_bytes),
        )
    }
}
