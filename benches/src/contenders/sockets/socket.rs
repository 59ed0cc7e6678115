//! A TCP connection to the broker, with one channel open.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lapin::uri::AMQPUri;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::frames::{
    Arguments, CHANNEL, CHANNEL_OPEN, CHANNEL_OPEN_OK, CONFIRM_SELECT, CONFIRM_SELECT_OK, CONSUME,
    CONSUME_OK, Method, OPEN, OPEN_OK, PROTOCOL_HEADER, QOS, QOS_OK, QUEUE_DECLARE, QUEUE_DECLARE_OK, START,
    START_OK, Scanner, TUNE, TUNE_OK, method,
};

/// How long a thread waits for bytes before it checks whether it must stop.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// About how many bytes of messages one write has at most, unless one message is larger.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// How long the broker may take to respond to a method, or to accept written bytes.
const LIMIT: Duration = Duration::from_secs(10);

/// The lifetime of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lifetime {
    /// As long as this connection.
    Exclusive,
    WithItsConsumers,
    /// A minute longer than its consumer, so that another connection can consume it.
    Resumable,
}

/// Which deliveries of a consumer have to be acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) enum Acknowledge {
    Each,
    Never,
}

#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    frame_max: u32,
}

impl Socket {
    /// Connects, logs in and opens the channel.
    pub(super) fn connect(url: &str) -> anyhow::Result<Self> {
        let url: AMQPUri = url.parse().map_err(anyhow::Error::msg)?;
        let authority = &url.authority;
        let stream = TcpStream::connect((authority.host.as_str(), authority.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut socket = Self {
            stream,
            buffer: vec![0; 256 * 1024],
            frame_max: 0,
        };

        socket.write(PROTOCOL_HEADER)?;
        socket.expect(START)?;
        let user = &authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let start_ok = Arguments::default()
            .empty_table()
            .short_string("PLAIN")
            .long_string(login.as_bytes())
            .short_string("en_US");
        socket.write(&method(0, START_OK, &start_ok))?;
        let tune = socket.expect(TUNE)?;
        // The highest channel (2 bytes), and the largest frame (4). The heartbeat follows.
        let &[a, b, c, d, e, f, ..] = tune.as_slice() else {
            bail!("the broker's tune is cut short");
        };
        socket.frame_max = u32::from_be_bytes([c, d, e, f]);
        ensure!(
            socket.frame_max >= 4096,
            "the broker's largest frame has {} bytes",
            socket.frame_max
        );
        // No heartbeats, because nothing would send them.
        let tune_ok = Arguments::default().bytes(&[a, b, c, d, e, f, 0, 0]);
        socket.write(&method(0, TUNE_OK, &tune_ok))?;
        let open = Arguments::default()
            .short_string(&url.vhost)
            .short_string("")
            .bytes(&[0]);
        socket.ask(0, OPEN, &open, OPEN_OK)?;
        let nothing = Arguments::default().short_string("");
        socket.ask(CHANNEL, CHANNEL_OPEN, &nothing, CHANNEL_OPEN_OK)?;
        Ok(socket)
    }

    pub(super) fn frame_max(&self) -> usize {
        usize::try_from(self.frame_max).expect("32 bits fit")
    }

    /// Declares a queue and returns its name, which the broker chooses if `name` is empty.
    pub(super) fn declare(&mut self, name: &str, lifetime: Lifetime) -> anyhow::Result<String> {
        const DURABLE: u8 = 1 << 1;
        const EXCLUSIVE: u8 = 1 << 2;
        const AUTO_DELETE: u8 = 1 << 3;
        let flags = match lifetime {
            Lifetime::Exclusive => EXCLUSIVE,
            Lifetime::WithItsConsumers => DURABLE | AUTO_DELETE,
            Lifetime::Resumable => DURABLE,
        };
        let declare = Arguments::default()
            .bytes(&[0, 0])
            .short_string(name)
            .bytes(&[flags]);
        let declare = match lifetime {
            Lifetime::Resumable => declare.table_of("x-expires", 60_000),
            _ => declare.empty_table(),
        };
        let declared = self.ask(CHANNEL, QUEUE_DECLARE, &declare, QUEUE_DECLARE_OK)?;
        let (&length, rest) = declared.split_first().context("declare-ok is empty")?;
        let name = rest.get(..length.into()).context("declare-ok is cut short")?;
        Ok(String::from_utf8(name.to_vec())?)
    }

    /// Asks the broker to confirm the messages that follow.
    pub(super) fn enable_confirms(&mut self) -> anyhow::Result<()> {
        let select = Arguments::default().bytes(&[0]);
        self.ask(CHANNEL, CONFIRM_SELECT, &select, CONFIRM_SELECT_OK)
            .map(drop)
    }

    /// Limits the deliveries of the next consumer that may be unacknowledged.
    pub(super) fn set_prefetch(&mut self, prefetch: u16) -> anyhow::Result<()> {
        let qos = Arguments::default()
            .bytes(&[0; 4])
            .bytes(&prefetch.to_be_bytes())
            .bytes(&[0]);
        self.ask(CHANNEL, QOS, &qos, QOS_OK).map(drop)
    }

    /// Starts to consume.
    pub(super) fn consume(&mut self, queue: &str, acknowledge: Acknowledge) -> anyhow::Result<()> {
        const NO_ACK: u8 = 1 << 1;
        let flags = match acknowledge {
            Acknowledge::Each => 0,
            Acknowledge::Never => NO_ACK,
        };
        let consume = Arguments::default()
            .bytes(&[0, 0])
            .short_string(queue)
            .short_string("")
            .bytes(&[flags])
            .empty_table();
        self.ask(CHANNEL, CONSUME, &consume, CONSUME_OK).map(drop)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let written = self.stream.write_all(bytes);
        written.context("the broker takes no bytes")
    }

    /// Passes on the bytes that arrive next. Returns without any if none arrive within
    /// [`PATIENCE`].
    pub(super) fn read(&mut self, scanner: &mut Scanner) -> anyhow::Result<()> {
        match self.stream.read(&mut self.buffer) {
            Ok(0) => bail!("the broker closed the connection"),
            Ok(length) => {
                scanner.push(&self.buffer[..length]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for bytes of any of two sockets, for `patience` at most: a signal ends it early.
    /// Returns for each whether a read would return at once, with bytes or an error.
    pub(super) fn wait(sockets: [&Self; 2], patience: Duration) -> anyhow::Result<[bool; 2]> {
        let mut polled = sockets.map(|socket| PollFd::new(&socket.stream, PollFlags::IN));
        let patience = Timespec::try_from(patience)?;
        match poll(&mut polled, Some(&patience)) {
            Ok(_) => Ok(polled.map(|socket| !socket.revents().is_empty())),
            Err(Errno::INTR) => Ok([false; 2]),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a method, waits for the answer and returns its arguments.
    fn ask(
        &mut self,
        channel: u16,
        question: Method,
        arguments: &Arguments,
        answer: Method,
    ) -> anyhow::Result<Vec<u8>> {
        self.write(&method(channel, question, arguments))?;
        self.expect(answer)
    }

    /// Waits for a method and returns its arguments. Another frame before it is an error. Bytes
    /// that arrive together with it, after it, are lost.
    fn expect(&mut self, expected: Method) -> anyhow::Result<Vec<u8>> {
        let begun = Instant::now();
        let mut scanner = Scanner::default();
        while begun.elapsed() < LIMIT {
            self.read(&mut scanner)?;
            if let Some((method, arguments)) = scanner.next_method()? {
                ensure!(method == expected, "{method:?} instead of {expected:?}");
                return Ok(arguments);
            }
        }
        bail!("the broker did not send {expected:?} within {LIMIT:?}")
    }
}
