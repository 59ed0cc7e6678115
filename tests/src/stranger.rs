//! A peer that publishes what no client library would send: frames written by hand to a plain
//! socket.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
const CHANNEL: u16 = 1;

/// How long the broker may take to reply.
const LIMIT: Duration = Duration::from_secs(20);

/// A basic property of a message, by its position on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Property {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

/// The properties of a message, with arbitrary bytes.
#[derive(Debug, Clone, Default)]
pub struct Properties {
    values: [Option<Vec<u8>>; 14],
}

impl Properties {
    /// Sets a property to a short string, which has at most 255 bytes.
    #[must_use]
    pub fn text(self, property: Property, bytes: impl AsRef<[u8]>) -> Self {
        self.raw(property, short(bytes.as_ref()))
    }

    /// Sets the headers to these entries of a table, as encoded on the wire.
    #[must_use]
    pub fn headers(self, entries: &[u8]) -> Self {
        self.raw(Property::Headers, long(entries))
    }

    /// Sets a property to these bytes, as encoded on the wire.
    #[must_use]
    pub fn raw(mut self, property: Property, bytes: Vec<u8>) -> Self {
        self.values[property as usize] = Some(bytes);
        self
    }

    /// Encodes the properties: their flags, and behind them those that are set.
    fn to_wire(&self) -> Vec<u8> {
        let mut flags = 0_u16;
        for (place, _) in self
            .values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_some())
        {
            flags |= 1 << (15 - place);
        }
        let mut wire = flags.to_be_bytes().to_vec();
        wire.extend(self.values.iter().flatten().flatten());
        wire
    }
}

/// Encodes a short string.
///
/// # Panics
///
/// Panics if it has more than 255 bytes.
#[must_use]
pub fn short(bytes: &[u8]) -> Vec<u8> {
    let size = u8::try_from(bytes.len()).expect("a short string has at most 255 bytes");
    [&[size], bytes].concat()
}

/// Encodes a long string, a table or an array.
///
/// # Panics
///
/// Panics if it has 4 GiB or more.
#[must_use]
pub fn long(bytes: &[u8]) -> Vec<u8> {
    let size = u32::try_from(bytes.len()).expect("it is not that long");
    [&size.to_be_bytes(), bytes].concat()
}

/// Encodes a table entry with this many nested tables (`F`) or arrays (`A`).
#[must_use]
pub fn nested(kind: u8, levels: usize) -> Vec<u8> {
    (1..=levels).rev().fold(Vec::new(), |inner, level| {
        let value = [&[kind][..], &long(&inner)].concat();
        // Elements of an array have no name.
        match kind == b'A' && level > 1 {
            true => value,
            false => [short(b"a"), value].concat(),
        }
    })
}

/// A connection with one channel and publisher confirms.
#[derive(Debug)]
pub struct Stranger {
    stream: TcpStream,
}

impl Stranger {
    /// Connects to the broker at a URL without TLS.
    ///
    /// # Errors
    ///
    /// Fails if the broker cannot be reached or refuses the login.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let uri: AMQPUri = url.parse().map_err(anyhow::Error::msg)?;
        let AMQPUri { authority, vhost, .. } = uri;
        let stream = TcpStream::connect((authority.host.as_str(), authority.port)).await?;
        stream.set_nodelay(true)?;
        let mut stranger = Self { stream };
        // The handshake: start, start-ok, tune, tune-ok, open and open-ok of the connection, then
        // open and open-ok of the channel, then confirm.select and select-ok.
        stranger.stream.write_all(b"AMQP\0\0\x09\x01").await?;
        stranger.expect(0, (10, 10)).await?;
        let login = format!(
            "\0{}\0{}",
            authority.userinfo.username, authority.userinfo.password
        );
        let start_ok = [
            long(b""),
            short(b"PLAIN"),
            long(login.as_bytes()),
            short(b"en_US"),
        ]
        .concat();
        stranger.send(0, (10, 11), &start_ok).await?;
        let tune = stranger.expect(0, (10, 30)).await?;
        // No heartbeats: this peer is silent at times.
        stranger
            .send(0, (10, 31), &[&tune[..6], &[0, 0]].concat())
            .await?;
        let open = [short(vhost.as_bytes()), vec![0, 0]].concat();
        stranger.send(0, (10, 40), &open).await?;
        stranger.expect(0, (10, 41)).await?;
        stranger.send(CHANNEL, (20, 10), &[0]).await?;
        stranger.expect(CHANNEL, (20, 11)).await?;
        stranger.send(CHANNEL, (85, 10), &[0]).await?;
        stranger.expect(CHANNEL, (85, 11)).await?;
        Ok(stranger)
    }

    /// Publishes to this queue through the default exchange and waits for the confirm, which the
    /// broker also sends if there is no such queue.
    ///
    /// # Errors
    ///
    /// Fails if the broker does not confirm the message.
    pub async fn publish(&mut self, queue: &str, properties: &Properties, body: &[u8]) -> anyhow::Result<()> {
        self.publish_to("", queue.as_bytes(), properties, body).await
    }

    /// Publishes to an exchange with an arbitrary routing key and waits for the confirm, which the
    /// broker also sends if no queue gets the message.
    ///
    /// # Errors
    ///
    /// Fails if the broker does not confirm the message.
    pub async fn publish_to(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        properties: &Properties,
        body: &[u8],
    ) -> anyhow::Result<()> {
        let publish = [
            &[0, 0],
            &short(exchange.as_bytes())[..],
            &short(routing_key),
            &[0],
        ]
        .concat();
        self.send(CHANNEL, (60, 40), &publish).await?;
        let header = [
            &[0, 60, 0, 0][..],
            &(body.len() as u64).to_be_bytes(),
            &properties.to_wire(),
        ]
        .concat();
        self.write(HEADER, CHANNEL, &header).await?;
        // Below RabbitMQ's default limit for a frame, 128 KiB.
        for part in body.chunks(100_000) {
            self.write(BODY, CHANNEL, part).await?;
        }
        // The confirm, a basic.ack.
        self.expect(CHANNEL, (60, 80)).await?;
        Ok(())
    }

    /// Declares an exclusive queue and returns its name.
    ///
    /// # Errors
    ///
    /// Fails if the broker does not declare it.
    pub async fn declare_exclusive(&mut self) -> anyhow::Result<String> {
        // No name, the flag for an exclusive queue, and no arguments.
        let declare = [&[0, 0, 0, 0b0100], &long(b"")[..]].concat();
        self.send(CHANNEL, (50, 10), &declare).await?;
        let declared = self.expect(CHANNEL, (50, 11)).await?;
        let size = usize::from(*declared.first().context("no name")?);
        Ok(String::from_utf8(declared[1..=size].to_vec())?)
    }

    /// Declares an exclusive queue with this name.
    ///
    /// # Errors
    ///
    /// Fails if the broker does not declare it.
    pub async fn declare(&mut self, queue: &str) -> anyhow::Result<()> {
        // As in `declare_exclusive`, with a name.
        let declare = [&[0, 0][..], &short(queue.as_bytes()), &[0b0100], &long(b"")].concat();
        self.send(CHANNEL, (50, 10), &declare).await?;
        self.expect(CHANNEL, (50, 11)).await.map(drop)
    }

    /// Removes a message from a queue. Returns its properties, as encoded on the wire, and its
    /// body. Waits until there is one.
    ///
    /// # Errors
    ///
    /// Fails if none arrives in time.
    pub async fn get(&mut self, queue: &str) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            if let Some(message) = self.try_get(queue).await? {
                return Ok(message);
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "no message comes to {queue}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Like [`get`](Self::get), but returns `None` at once if the queue is empty.
    ///
    /// # Errors
    ///
    /// Fails if the broker refuses.
    pub async fn try_get(&mut self, queue: &str) -> anyhow::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let get = [&[0, 0], &short(queue.as_bytes())[..], &[1]].concat();
        self.send(CHANNEL, (60, 70), &get).await?;
        let (_, payload) = self.read().await?;
        match payload.get(..4) {
            // basic.get-ok, or get-empty.
            Some([0, 60, 0, 71]) => {}
            Some([0, 60, 0, 72]) => return Ok(None),
            other => bail!("{queue} cannot be read: {other:?}"),
        }
        let (_, header) = self.read().await?;
        let size = header.get(4..12).context("a header is too short")?;
        let size = usize::try_from(u64::from_be_bytes(size.try_into()?))?;
        let mut body = Vec::new();
        while body.len() < size {
            body.extend(self.read().await?.1);
        }
        Ok(Some((header[12..].to_vec(), body)))
    }

    /// Sends a method, by the numbers of its class and itself.
    async fn send(
        &mut self,
        channel: u16,
        (class, method): (u16, u16),
        arguments: &[u8],
    ) -> anyhow::Result<()> {
        let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
        self.write(METHOD, channel, &payload).await
    }

    /// Sends a frame.
    async fn write(&mut self, kind: u8, channel: u16, payload: &[u8]) -> anyhow::Result<()> {
        let size = u32::try_from(payload.len())?.to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat();
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Returns the arguments of the next frame, which must be this method.
    async fn expect(&mut self, channel: u16, (class, method): (u16, u16)) -> anyhow::Result<Vec<u8>> {
        let (from, payload) = self.read().await?;
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        ensure!(
            from == channel && payload.starts_with(&expected),
            "the broker answers something else: {}",
            String::from_utf8_lossy(&payload)
        );
        Ok(payload[4..].to_vec())
    }

    /// Returns the channel and payload of the next frame that is not a heartbeat.
    async fn read(&mut self) -> anyhow::Result<(u16, Vec<u8>)> {
        timeout(LIMIT, async {
            loop {
                let mut head = [0; 7];
                self.stream.read_exact(&mut head).await?;
                let [kind, a, b, size @ ..] = head;
                let size = usize::try_from(u32::from_be_bytes(size))?;
                let mut payload = vec![0; size + 1];
                self.stream.read_exact(&mut payload).await?;
                payload.pop();
                if kind != HEARTBEAT {
                    return Ok((u16::from_be_bytes([a, b]), payload));
                }
            }
        })
        .await
        .context("the broker says nothing")?
    }
}
