//! What is measured: a worker and a caller that reads its streams.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::time::timeout;

/// The longest wait for the end of a stream, for an item of the slow one, and for items of all
/// streams that nobody reads.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// What a caller asks for: a stream of this many items of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) items: u64,
    /// Bytes of an item.
    pub(super) size: u32,
}

impl Ask {
    /// Encodes this as the body of a request, for systems that encode by hand.
    pub(super) fn write(self) -> Bytes {
        let mut body = BytesMut::with_capacity(12);
        body.put_u64(self.items);
        body.put_u32(self.size);
        body.freeze()
    }

    /// Decodes the body of a request.
    pub(super) fn read(mut body: &[u8]) -> anyhow::Result<Self> {
        ensure!(body.len() == 12, "a request has twelve bytes");
        Ok(Self {
            items: body.get_u64(),
            size: body.get_u32(),
        })
    }

    /// Returns the items. Each is made anew and begins with its number.
    pub(super) fn make(self) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        (0..self.items).map(move |number: u64| {
            let mut item = Vec::with_capacity(size);
            item.put_u64(number);
            item.resize(size, b'x');
            item
        })
    }

    /// Checks an item that was read after `number` others.
    fn check(self, mut item: &[u8], number: u64) -> anyhow::Result<()> {
        let size = item.len();
        ensure!(
            u32::try_from(size) == Ok(self.size) && item.get_u64() == number,
            "item {number} is another one, or has another size than {}: {size}",
            self.size
        );
        Ok(())
    }
}

/// A worker and a caller, with connections of their own as in separate programs.
pub(super) trait System: Sized + Send + Sync + 'static {
    type Reader: Reader;

    fn start(broker: &str) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Begins a stream. The request may be sent only when the first item is awaited.
    fn open(&self, ask: Ask) -> impl Future<Output = anyhow::Result<Self::Reader>> + Send;

    /// Removes everything that could affect the next run.
    fn stop(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Reads a stream.
pub(super) trait Reader: Send + 'static {
    type Item: AsRef<[u8]> + Send;

    /// Returns the next item, or `None` at the end.
    fn next_item(&mut self) -> impl Future<Output = anyhow::Result<Option<Self::Item>>> + Send;
}

/// A stream, and how many of its items were read.
pub(super) struct Reading<R> {
    reader: R,
    ask: Ask,
    pub(super) items: u64,
}

impl<R: Reader> Reading<R> {
    pub(super) async fn begin<S: System<Reader = R>>(system: &S, ask: Ask) -> anyhow::Result<Self> {
        Ok(Self {
            reader: system.open(ask).await?,
            ask,
            items: 0,
        })
    }

    /// Reads and checks an item. Returns `false` at the end, and fails if that comes too early.
    pub(super) async fn next(&mut self) -> anyhow::Result<bool> {
        match self.reader.next_item().await? {
            Some(item) => {
                self.ask.check(item.as_ref(), self.items)?;
                self.items += 1;
                Ok(true)
            }
            None => {
                let (items, expected) = (self.items, self.ask.items);
                ensure!(
                    items == expected,
                    "a stream ended after {items} items of {expected}"
                );
                Ok(false)
            }
        }
    }

    /// Reads the items that are left. Fails if that takes longer than [`LIMIT`].
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        let reading = async {
            while self.next().await? {}
            anyhow::Ok(())
        };
        let read = timeout(LIMIT, reading).await;
        read.with_context(|| format!("a stream did not end within {LIMIT:?}"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_recognized() {
        let ask = Ask { items: 2, size: 16 };
        assert_eq!(Ask::read(&ask.write()).unwrap(), ask);
        assert!(Ask::read(b"short").is_err());
        let items: Vec<_> = ask.make().collect();
        assert_eq!(items.len(), 2);
        assert!(ask.check(&items[1], 1).is_ok());
        assert!(ask.check(&items[1], 0).is_err());
        assert!(ask.check(&items[1][..15], 1).is_err());
        assert!(ask.check(b"", 0).is_err());
    }
}
