//! Reads the fields of AMQP frames. Pure: no I/O.

use crate::protocol::Property;

/// The number of bytes before the properties in the payload of a content header: class, weight,
/// body size and property flags.
pub(in super::super) const FIXED_LEN: usize = 14;

/// Reads the fields of a frame in order.
#[derive(Debug, Clone)]
pub(in super::super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(in super::super) fn new(bytes: &'a [u8]) -> Self {
        Self::at(bytes, 0)
    }

    /// Begins at a position in the bytes.
    pub(in super::super) fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The position of the next byte.
    pub(in super::super) fn position(&self) -> usize {
        self.at
    }

    pub(in super::super) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Takes the next `len` bytes. `None` if there are fewer.
    pub(in super::super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// Takes the next `N` bytes. `None` if there are fewer.
    pub(in super::super) fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Reads a short string and returns its bytes. `None` if it does not end within the bytes.
    pub(in super::super) fn short(&mut self) -> Option<&'a [u8]> {
        let [len] = self.chunk()?;
        self.take(len.into())
    }

    /// Reads a long string, a byte array, a table or an array, and returns its content. `None` if
    /// it does not end within the bytes.
    pub(in super::super) fn long(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_be_bytes(self.chunk()?);
        self.take(usize::try_from(len).ok()?)
    }
}

/// Splits the payload of a content header into its property flags and its properties. `None` if it
/// is too short for a content header.
pub(in super::super) fn split_flags(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (fixed, properties) = payload.split_first_chunk::<FIXED_LEN>()?;
    let [.., high, low] = *fixed;
    Some((u16::from_be_bytes([high, low]), properties))
}

/// The flag of a property in a content header.
pub(in super::super) const fn flag(property: Property) -> u16 {
    1 << (15 - property as u16)
}
