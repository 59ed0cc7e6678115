//! Carries the bytes of one connection.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    link::Link,
    rules::{Conditions, Rules},
    shared::Shared,
    target::Way,
};

/// How many bytes are read at a time, at most.
const CHUNK: usize = 16 * 1024;

/// How many bytes a direction buffers at most. Beyond that, the proxy stops reading.
const MAX_BUFFERED: usize = 1024 * 1024;

/// About how often a throttled direction forwards bytes, unless its rate is lower than this.
const TICKS_PER_SECOND: u64 = 20;

/// After how many bytes without a name the search for the connection's name ends.
const SNIFFED: usize = 4096;

/// Connects to the broker, and serves the connection until it is closed or lost. Resets the client
/// if the broker cannot be reached.
pub(super) async fn serve(link: Arc<Link>, shared: Arc<Shared>, client: TcpStream) {
    // Dropped after the sockets. Parameters are dropped later still, so `client` is rebound.
    let _ended = link.ended.clone().drop_guard();
    let mut client = client;
    let connected = tokio::select! {
        () = link.reset.cancelled() => None,
        connected = shared.connect() => connected.ok(),
    };
    let Some(mut broker) = connected else {
        reset_on_close(&client);
        return;
    };
    let relayed = tokio::select! {
        () = link.reset.cancelled() => Err(Lost),
        relayed = relay(&link, &shared, &mut client, &mut broker) => relayed,
    };
    if relayed.is_err() {
        reset_on_close(&client);
        reset_on_close(&broker);
    }
}

/// Forwards both directions until both have ended or the connection is lost.
async fn relay(
    link: &Arc<Link>,
    shared: &Arc<Shared>,
    client: &mut TcpStream,
    broker: &mut TcpStream,
) -> Result<(), Lost> {
    for stream in [&*client, &*broker] {
        stream.set_nodelay(true).map_err(|_| Lost)?;
    }
    let (from_client, to_client) = client.split();
    let (from_broker, to_broker) = broker.split();
    let carry = |way| Carrier::new(link.clone(), shared.clone(), way);
    tokio::try_join!(
        carry(Way::ToBroker).run(from_client, to_broker),
        carry(Way::FromBroker).run(from_broker, to_client),
    )?;
    Ok(())
}

/// The connection must be reset.
#[derive(Debug)]
struct Lost;

/// Has the socket send a reset when it is closed.
fn reset_on_close(socket: &TcpStream) {
    // This fails if the peer has already reset the connection.
    let _ = socket.set_zero_linger();
}

/// The bytes that arrived at one moment.
struct Chunk {
    arrived: Instant,
    /// Empty at the end of the stream. An error if the connection is lost.
    bytes: io::Result<Bytes>,
    /// Its share of [`MAX_BUFFERED`], until it is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

/// Forwards one direction: a reader and a writer with a queue between them, so that several chunks
/// can be delayed at the same time.
struct Carrier {
    link: Arc<Link>,
    shared: Arc<Shared>,
    rules: watch::Receiver<Rules>,
    way: Way,
}

impl Carrier {
    fn new(link: Arc<Link>, shared: Arc<Shared>, way: Way) -> Self {
        let rules = shared.rules.subscribe();
        Self {
            link,
            shared,
            rules,
            way,
        }
    }

    /// Forwards bytes until the end of the stream, or until the proxy closes this direction. Then
    /// passes the end on to the receiver.
    async fn run(mut self, from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Lost> {
        let link = self.link.clone();
        let way = self.way;
        let lane = link.lane(way);
        let (queue, chunks) = mpsc::unbounded_channel();
        let read = async {
            read(&link, way, from, queue).await;
            Ok(())
        };
        tokio::select! {
            biased;
            () = lane.close.cancelled() => {}
            carried = async { tokio::try_join!(read, self.write(chunks, &mut to)) } => drop(carried?),
        }
        let shut_down = to.shutdown().await;
        lane.closed.cancel();
        shut_down.map_err(|_| Lost)
    }

    /// Writes chunks when the conditions permit, until the end of the stream.
    async fn write(
        &mut self,
        mut chunks: mpsc::UnboundedReceiver<Chunk>,
        to: &mut WriteHalf<'_>,
    ) -> Result<(), Lost> {
        while let Some(chunk) = chunks.recv().await {
            // The end of the stream, which has no bytes, waits too.
            self.wait_to_pass(self.way, chunk.arrived).await;
            let mut bytes = chunk.bytes.map_err(|_| Lost)?;
            while !bytes.is_empty() {
                let rate = self.wait_to_pass(self.way, chunk.arrived).await.rate;
                let size = rate.map_or(bytes.len(), |rate| bytes_per_tick(rate).min(bytes.len()));
                let piece = bytes.split_to(size);
                self.forward(&piece, to).await?;
                if let Some(rate) = rate {
                    // As long as the piece takes at this rate.
                    sleep(Duration::from_secs(piece.len() as u64) / u32::try_from(rate).unwrap_or(u32::MAX))
                        .await;
                }
            }
        }
        Ok(())
    }

    /// Writes one piece, or the bytes of it that pass if the connection is cut in it. Fails if it
    /// is cut, even behind the last byte of the piece, or if the receiver has closed.
    async fn forward(&mut self, piece: &[u8], to: &mut WriteHalf<'_>) -> Result<(), Lost> {
        let cut = self.shared.cut_within(&self.link, self.way, piece);
        let pass = &piece[..cut.unwrap_or(piece.len())];
        if to.write_all(pass).await.is_err() {
            // The receiver has closed. The sender learns that through the other direction, so not
            // while a black hole or latency holds that up.
            self.wait_to_pass(self.way.opposite(), Instant::now()).await;
            return Err(Lost);
        }
        let forwarded = &self.link.lane(self.way).forwarded;
        forwarded.fetch_add(pass.len() as u64, Ordering::Relaxed);
        match cut {
            Some(_) => Err(Lost),
            None => Ok(()),
        }
    }

    /// Waits until the conditions in this direction let a chunk with this arrival time pass, apart
    /// from the rate. Returns the current conditions.
    async fn wait_to_pass(&mut self, way: Way, arrived: Instant) -> Conditions {
        loop {
            let conditions = self.rules.borrow_and_update().conditions(&self.link, way);
            let due = arrived + conditions.latency;
            if !conditions.black_hole && due <= Instant::now() {
                return conditions;
            }
            tokio::select! {
                // Never an error: `shared` keeps the sender alive.
                _ = self.rules.changed() => {}
                () = sleep_until(due), if !conditions.black_hole => {}
            }
        }
    }
}

/// Returns how many bytes a direction with this rate forwards at a time: at least one.
fn bytes_per_tick(bytes_per_second: u64) -> usize {
    usize::try_from(bytes_per_second / TICKS_PER_SECOND)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Reads until the stream ends or is lost, which the last chunk reports, or the writer has failed.
/// Finds the connection's name in what the client sends first.
async fn read(link: &Link, way: Way, mut from: ReadHalf<'_>, queue: mpsc::UnboundedSender<Chunk>) {
    let room = Arc::new(Semaphore::new(MAX_BUFFERED));
    // What was read so far. `None` once the search for the name has ended, and on the way from the
    // broker.
    let mut beginning = (way == Way::ToBroker).then(Vec::new);
    loop {
        let mut bytes = BytesMut::with_capacity(CHUNK);
        let read = from.read_buf(&mut bytes).await;
        let arrived = Instant::now();
        let bytes = read.map(|_| bytes.freeze());
        let length = bytes.as_ref().map_or(0, Bytes::len);

        if let (Some(seen), Ok(bytes)) = (&mut beginning, &bytes) {
            seen.extend_from_slice(bytes);
            if let Some(name) = connection_name(seen) {
                let _ = link.name.set(name);
            }
            if link.name.get().is_some() || seen.len() > SNIFFED {
                beginning = None;
            }
        }
        let share = u32::try_from(length).expect("a chunk is small");
        let chunk = Chunk {
            arrived,
            bytes,
            _room: room.clone().acquire_many_owned(share).await.ok(),
        };
        if queue.send(chunk).is_err() || length == 0 {
            return;
        }
    }
}

/// Returns the name in the client properties of a `start-ok`, once it is complete: a field with a
/// long string.
fn connection_name(sent: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\x0fconnection_nameS";
    let start = sent.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let (length, rest) = sent[start..].split_first_chunk()?;
    let name = rest.get(..u32::from_be_bytes(*length) as usize)?;
    Some(String::from_utf8_lossy(name).into_owned())
}
