//! The channels of a connection that are closed, and the frames that must not follow.
//!
//! Both sides may close a channel at the same time, and lapin sends what it had queued for a
//! channel after it has closed the channel or confirmed that the broker has. RabbitMQ closes the
//! whole connection because of a frame of a channel that is not open, and lapin because of a
//! `channel.close-ok` that it does not expect (lapin 4.12).

use super::frames::{METHOD, OVERHEAD, PREFIX_LEN};

/// A method as class and number.
type Method = (u16, u16);

pub(in super::super) const OPEN: Method = (20, 10);
pub(in super::super) const OPEN_OK: Method = (20, 11);
pub(in super::super) const CLOSE: Method = (20, 40);
pub(in super::super) const CLOSE_OK: Method = (20, 41);

/// A set of channels.
#[derive(Debug, Default)]
pub(in super::super) struct ChannelSet {
    /// A bit for each channel, up to the largest one that was ever in the set.
    bits: Vec<u64>,
}

impl ChannelSet {
    pub(in super::super) fn contains(&self, channel: u16) -> bool {
        let bits = self.bits.get(usize::from(channel / 64)).copied();
        bits.unwrap_or_default() & (1 << (channel % 64)) != 0
    }

    pub(in super::super) fn insert(&mut self, channel: u16) {
        let index = usize::from(channel / 64);
        if self.bits.len() <= index {
            self.bits.resize(index + 1, 0);
        }
        self.bits[index] |= 1 << (channel % 64);
    }

    pub(in super::super) fn remove(&mut self, channel: u16) {
        if let Some(bits) = self.bits.get_mut(usize::from(channel / 64)) {
            *bits &= !(1 << (channel % 64));
        }
    }
}

/// The number of bytes that identify a method: its class and its number.
const METHOD_ID_LEN: usize = 4;

/// The first bytes of a frame: its prefix, and if it has a method, which one. They may not all be
/// known yet.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct FrameStart {
    bytes: [u8; PREFIX_LEN + METHOD_ID_LEN],
    /// How many of the bytes are known.
    len: usize,
}

impl FrameStart {
    /// Takes what is missing from the front of `bytes`. Returns how many bytes it took.
    pub(in super::super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while !self.is_complete()
            && let Some(byte) = bytes.get(taken)
        {
            self.bytes[self.len] = *byte;
            self.len += 1;
            taken += 1;
        }
        taken
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(in super::super) fn is_complete(&self) -> bool {
        let needed = if self.kind() == METHOD {
            PREFIX_LEN + METHOD_ID_LEN
        } else {
            PREFIX_LEN
        };
        self.len >= needed
    }

    pub(in super::super) fn kind(&self) -> u8 {
        self.bytes[0]
    }

    /// How many bytes the whole frame has. The prefix must be known.
    pub(in super::super) fn frame_len(&self) -> usize {
        let [_, _, _, a, b, c, d, ..] = self.bytes;
        let payload = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        payload.saturating_add(OVERHEAD)
    }

    /// How many bytes of the frame follow these. The prefix must be known.
    pub(in super::super) fn left(&self) -> usize {
        self.frame_len().saturating_sub(self.len)
    }

    pub(in super::super) fn channel(&self) -> u16 {
        u16::from_be_bytes([self.bytes[1], self.bytes[2]])
    }

    /// The method of a complete start. `None` if the frame has another type.
    fn method(&self) -> Option<Method> {
        let [.., a, b, c, d] = self.bytes;
        let method = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        (self.kind() == METHOD).then_some(method)
    }

    /// Whether the frame closes its channel: only `channel.open` or `channel.close-ok` may follow.
    pub(in super::super) fn closes_channel(&self) -> bool {
        matches!(self.method(), Some(CLOSE | CLOSE_OK))
    }
}

/// The channels on which lapin has sent `channel.close` or `channel.close-ok`, and no
/// `channel.open` since.
#[derive(Debug, Default)]
pub(in super::super) struct ClosedChannels(ChannelSet);

impl ClosedChannels {
    /// Whether lapin may send a frame with this complete start.
    pub(in super::super) fn allows(&self, start: &FrameStart) -> bool {
        // The broker may wait for a `channel.close-ok` although lapin has closed the channel, too.
        !self.0.contains(start.channel()) || matches!(start.method(), Some(OPEN | CLOSE_OK))
    }

    /// Records that lapin sends a frame with this start.
    pub(in super::super) fn record(&mut self, start: &FrameStart) {
        match start.method() {
            Some(OPEN) => self.0.remove(start.channel()),
            Some(CLOSE | CLOSE_OK) => self.0.insert(start.channel()),
            _ => {}
        }
    }
}
