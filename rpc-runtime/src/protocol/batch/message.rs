//! The body of a batch: several calls or several replies, as a MessagePack array of arrays.
//!
//! ```text
//! calls:   [[id, method, time to live, arguments, headers, ...], ...]
//! replies: [[id, kind, body, batch size, headers, queue time, ...], ...]
//! ```
//!
//! An id consists of the sixteen bytes of the UUID that would be the correlation id of a single
//! message. The time to live is in milliseconds, or nil. The headers of a reply and its queue time,
//! which is in milliseconds, are optional. The reader skips further elements, so that more can be
//! added later.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use rmp::decode::{self, RmpRead};
use rmp::{Marker, encode};
use uuid::Uuid;

use crate::protocol::headers::Headers;
use crate::protocol::overload::QueueTime;
use crate::protocol::reply::ReplyKind;
use crate::protocol::short_str::ShortStr;

/// The `type` of a batch.
pub(crate) const BATCH_TYPE: &str = "rpc.batch";

/// The suffix of a worker's queue for batched requests. It follows the name of the request queue.
pub(crate) const BATCH_SUFFIX: &str = ".batch";

/// In a request, the header with which the caller says that it can send and read batches. It is
/// empty, or the address for the answer if the request has no `reply_to`. In a reply or such an
/// answer, the number of calls of this method that the worker asks for in one batch.
pub(crate) const BATCH_HEADER: &str = "rpc-batch";

/// The maximum number of calls or replies in a batch.
pub(crate) const MAX_BATCH_CALLS: usize = 1024;

/// The maximum size of a batch with more than one call or reply, in bytes.
pub(crate) const MAX_BATCH_BYTES: usize = 128 * 1024;

/// The size above which a batch with more than one call or reply is refused, in bytes. Senders
/// estimate the size of a call, and may exceed [`MAX_BATCH_BYTES`] a little.
const MAX_READ_BYTES: usize = 2 * MAX_BATCH_BYTES;

/// The maximum size of a call or reply that is sent in a batch, in bytes. A larger one gains
/// nothing from batching: its bytes cost more than the message around them.
pub(crate) const MAX_PART_BYTES: usize = 8 * 1024;

/// The size of a part's headers, as [`headers_size`] returns it, above which the batch is refused.
/// In memory, short headers take many times that.
const MAX_READ_HEADERS: usize = 2 * MAX_PART_BYTES;

/// An upper bound of what the id, the numbers and the lengths add to the size of a part, in bytes.
const PART_OVERHEAD: usize = 48;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchedCall {
    pub(crate) id: Uuid,
    pub(crate) method: ShortStr,
    /// In whole milliseconds.
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) arguments: Bytes,
    pub(crate) headers: Headers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchedReply {
    pub(crate) id: Uuid,
    pub(crate) kind: ReplyKind,
    pub(crate) body: Bytes,
    /// How many calls of this method the worker asks for in one batch.
    pub(crate) batch_size: u16,
    pub(crate) headers: Headers,
    pub(crate) queue_time: QueueTime,
}

/// An outgoing call in a batch. Like [`BatchedCall`], but borrowed.
#[derive(Debug)]
pub(crate) struct BatchedCallRef<'a> {
    pub(crate) id: Uuid,
    pub(crate) method: &'a str,
    /// In whole milliseconds.
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) arguments: &'a [u8],
    pub(crate) headers: Cow<'a, Headers>,
}

/// A call, reply or cancellation that can be written to a batch.
pub(crate) trait Part {
    /// Returns an upper bound of its encoded size, in bytes.
    fn size(&self) -> usize;

    fn write(&self, body: &mut Vec<u8>);
}

/// A call, reply or cancellation that can be read from a batch.
pub(crate) trait ReadPart: Sized {
    fn read(reader: &mut Reader<'_>) -> Result<Self, UnreadableBatch>;
}

pub(crate) fn write_batch<P: Part>(parts: &[P]) -> Bytes {
    let size = parts.iter().map(Part::size).sum::<usize>();
    // The marker and the length of an array have up to five bytes.
    let mut body = Vec::with_capacity(5 + size);
    assert_ok(encode::write_array_len(&mut body, to_u32(parts.len())));
    for part in parts {
        part.write(&mut body);
    }
    Bytes::from(body)
}

/// Decodes a batch. Arguments and bodies are slices of `body` and keep it in memory.
///
/// # Errors
///
/// If the batch is malformed, or larger than any sender of this protocol makes it: in parts, in
/// bytes, or in the headers of a part.
pub(crate) fn read_batch<P: ReadPart>(body: &Bytes) -> Result<Vec<P>, UnreadableBatch> {
    let mut reader = Reader::new(body);
    let count = reader.array_len()?;
    if count > MAX_BATCH_CALLS {
        return Err(UnreadableBatch("it has too many parts"));
    }
    if count > 1 && body.len() > MAX_READ_BYTES {
        return Err(UnreadableBatch("it has several parts and too many bytes"));
    }
    // A peer announces `count`. A part has more than eight bytes, so the size of the body limits
    // the capacity that is reserved.
    let mut parts = Vec::with_capacity(count.min(body.len() / 8));
    for _ in 0..count {
        parts.push(P::read(&mut reader)?);
    }
    reader.end()?;
    Ok(parts)
}

impl Part for BatchedCallRef<'_> {
    fn size(&self) -> usize {
        PART_OVERHEAD + self.method.len() + self.arguments.len() + headers_size(&self.headers)
    }

    fn write(&self, body: &mut Vec<u8>) {
        assert_ok(encode::write_array_len(body, 5));
        assert_ok(encode::write_bin(body, self.id.as_bytes()));
        assert_ok(encode::write_str(body, self.method));
        match self.time_to_live {
            Some(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                assert_ok(encode::write_uint(body, millis));
            }
            None => assert_ok(encode::write_nil(body)),
        }
        assert_ok(encode::write_bin(body, self.arguments));
        write_headers(body, &self.headers);
    }
}

/// Returns an upper bound of the encoded size of all headers, in bytes. [`PART_OVERHEAD`] contains
/// the rest of their map.
pub(crate) fn headers_size(headers: &Headers) -> usize {
    headers.iter().map(|(name, value)| header_size(name, value)).sum()
}

fn header_size(name: &str, value: &str) -> usize {
    /// The markers of a name and a value.
    const MARKERS: usize = 2 * 5;
    name.len() + value.len() + MARKERS
}

fn write_headers(body: &mut Vec<u8>, headers: &Headers) {
    assert_ok(encode::write_map_len(body, to_u32(headers.len())));
    for (name, value) in headers.iter() {
        assert_ok(encode::write_str(body, name));
        assert_ok(encode::write_str(body, value));
    }
}

impl<P: Part> Part for &P {
    fn size(&self) -> usize {
        P::size(self)
    }

    fn write(&self, body: &mut Vec<u8>) {
        P::write(self, body);
    }
}

impl ReadPart for BatchedCall {
    fn read(reader: &mut Reader<'_>) -> Result<Self, UnreadableBatch> {
        let unknown = reader.array_beyond(5, UnreadableBatch("a call has too few elements"))?;
        let call = Self {
            id: reader.id()?,
            method: reader.short_str()?,
            time_to_live: reader.optional_uint()?.map(Duration::from_millis),
            arguments: reader.shared_bin()?,
            headers: reader.headers()?,
        };
        reader.skip(unknown)?;
        Ok(call)
    }
}

impl Part for BatchedReply {
    fn size(&self) -> usize {
        PART_OVERHEAD + self.body.len() + headers_size(&self.headers)
    }

    fn write(&self, body: &mut Vec<u8>) {
        let has_queue_time = self.queue_time != QueueTime::default();
        let has_headers = has_queue_time || !self.headers.is_empty();
        let length = 4 + u32::from(has_headers) + u32::from(has_queue_time);
        assert_ok(encode::write_array_len(body, length));
        assert_ok(encode::write_bin(body, self.id.as_bytes()));
        assert_ok(encode::write_uint(body, u64::from(self.kind.number())));
        assert_ok(encode::write_bin(body, &self.body));
        assert_ok(encode::write_uint(body, u64::from(self.batch_size)));
        if has_headers {
            write_headers(body, &self.headers);
        }
        if has_queue_time {
            assert_ok(encode::write_uint(body, self.queue_time.as_millis().into()));
        }
    }
}

impl ReadPart for BatchedReply {
    fn read(reader: &mut Reader<'_>) -> Result<Self, UnreadableBatch> {
        let optional = reader.array_beyond(4, UnreadableBatch("a reply has too few elements"))?;
        let reply = Self {
            id: reader.id()?,
            kind: ReplyKind::from_number(reader.uint()?)
                .ok_or(UnreadableBatch("a reply's kind is unknown"))?,
            body: reader.shared_bin()?,
            batch_size: u16::try_from(reader.uint()?).unwrap_or(u16::MAX),
            // The first two optional elements. The others are unknown.
            headers: match optional {
                0 => Headers::default(),
                _ => reader.headers()?,
            },
            queue_time: match optional {
                0 | 1 => QueueTime::default(),
                _ => QueueTime::from_millis(reader.uint()?),
            },
        };
        reader.skip(optional.saturating_sub(2))?;
        Ok(reply)
    }
}

/// Only callers write calls, as a [`BatchedCallRef`]. Tests write what they have read.
#[cfg(any(test, fuzzing))]
impl Part for BatchedCall {
    fn size(&self) -> usize {
        borrowed(self).size()
    }

    fn write(&self, body: &mut Vec<u8>) {
        borrowed(self).write(body);
    }
}

#[cfg(any(test, fuzzing))]
fn borrowed(call: &BatchedCall) -> BatchedCallRef<'_> {
    BatchedCallRef {
        id: call.id,
        method: call.method.as_str(),
        time_to_live: call.time_to_live,
        arguments: &call.arguments,
        headers: Cow::Borrowed(&call.headers),
    }
}

/// Checks, in debug builds only, a write to a `Vec`, which never fails.
pub(in crate::protocol) fn assert_ok<T, E: std::fmt::Debug>(result: Result<T, E>) {
    debug_assert!(result.is_ok(), "{:?}", result.err());
}

/// Converts a length to the 32 bits of MessagePack. A message is far smaller.
pub(in crate::protocol) fn to_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Why a batch, or another MessagePack body that a [`Reader`] reads, cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch cannot be decoded: {0}")]
pub(crate) struct UnreadableBatch(pub(in crate::protocol) &'static str);

/// Reads the values of a body in order.
pub(crate) struct Reader<'a> {
    whole: &'a Bytes,
    /// What has not been read yet.
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::protocol) fn new(body: &'a Bytes) -> Self {
        Self {
            whole: body,
            rest: body,
        }
    }

    /// Checks that everything was read.
    pub(in crate::protocol) fn end(&self) -> Result<(), UnreadableBatch> {
        match self.rest {
            [] => Ok(()),
            _ => Err(UnreadableBatch("there are bytes after the last part")),
        }
    }

    pub(in crate::protocol) fn array_len(&mut self) -> Result<usize, UnreadableBatch> {
        let length =
            decode::read_array_len(&mut self.rest).map_err(|_| UnreadableBatch("an array is missing"))?;
        Ok(length as usize)
    }

    /// Begins an array of at least `required` elements. Returns how many more it has.
    pub(in crate::protocol) fn array_beyond(
        &mut self,
        required: usize,
        too_short: UnreadableBatch,
    ) -> Result<usize, UnreadableBatch> {
        self.array_len()?.checked_sub(required).ok_or(too_short)
    }

    pub(in crate::protocol) fn uint(&mut self) -> Result<u64, UnreadableBatch> {
        decode::read_int(&mut self.rest).map_err(|_| UnreadableBatch("a number is missing"))
    }

    fn optional_uint(&mut self) -> Result<Option<u64>, UnreadableBatch> {
        match self.rest.first().copied().map(Marker::from_u8) {
            Some(Marker::Null) => {
                self.rest = &self.rest[1..];
                Ok(None)
            }
            _ => self.uint().map(Some),
        }
    }

    /// Takes the next `length` bytes.
    fn take(&mut self, length: u32) -> Result<&'a [u8], UnreadableBatch> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length as usize)
            .ok_or(UnreadableBatch("it is truncated"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(in crate::protocol) fn bin(&mut self) -> Result<&'a [u8], UnreadableBatch> {
        let length =
            decode::read_bin_len(&mut self.rest).map_err(|_| UnreadableBatch("bytes are missing"))?;
        self.take(length)
    }

    /// Reads bytes, which share the memory of the body.
    fn shared_bin(&mut self) -> Result<Bytes, UnreadableBatch> {
        let bytes = self.bin()?;
        Ok(self.whole.slice_ref(bytes))
    }

    /// Returns the bytes that `read` reads. They share the memory of the body.
    pub(in crate::protocol) fn bytes_read_by(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<(), UnreadableBatch>,
    ) -> Result<Bytes, UnreadableBatch> {
        let before = self.rest;
        read(self)?;
        let length = before.len() - self.rest.len();
        Ok(self.whole.slice_ref(&before[..length]))
    }

    pub(in crate::protocol) fn id(&mut self) -> Result<Uuid, UnreadableBatch> {
        let length = decode::read_bin_len(&mut self.rest).map_err(|_| UnreadableBatch("an id is missing"))?;
        Uuid::from_slice(self.take(length)?).map_err(|_| UnreadableBatch("an id does not have 16 bytes"))
    }

    fn str(&mut self) -> Result<&str, UnreadableBatch> {
        let length = decode::read_str_len(&mut self.rest).map_err(|_| UnreadableBatch("text is missing"))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| UnreadableBatch("text is not UTF-8"))
    }

    fn short_str(&mut self) -> Result<ShortStr, UnreadableBatch> {
        ShortStr::new(self.str()?).map_err(|_| UnreadableBatch("a name is longer than 255 bytes"))
    }

    fn headers(&mut self) -> Result<Headers, UnreadableBatch> {
        let length =
            decode::read_map_len(&mut self.rest).map_err(|_| UnreadableBatch("headers are missing"))?;
        if length == 0 {
            return Ok(Headers::default());
        }
        let mut size = 0;
        let headers = (0..length).map(|_| {
            let (name, value) = (self.short_str()?, self.str()?.to_owned());
            size += header_size(name.as_str(), &value);
            if size > MAX_READ_HEADERS {
                return Err(UnreadableBatch("the headers of a part are too large"));
            }
            Ok((name, value))
        });
        headers.collect()
    }

    /// Skips this many values and all values nested in them, without recursion.
    pub(in crate::protocol) fn skip(&mut self, values: usize) -> Result<(), UnreadableBatch> {
        const TRUNCATED: UnreadableBatch = UnreadableBatch("it is truncated");
        let mut left = values as u64;
        while left > 0 {
            left -= 1;
            let marker = Marker::from_u8(self.rest.read_u8().map_err(|_| TRUNCATED)?);
            // What follows the marker: bytes (an extension's type is one), or nested values.
            let (bytes, nested) = match marker {
                Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => (0, 0),
                Marker::U8 | Marker::I8 => (1, 0),
                Marker::U16 | Marker::I16 | Marker::FixExt1 => (2, 0),
                Marker::FixExt2 => (3, 0),
                Marker::U32 | Marker::I32 | Marker::F32 => (4, 0),
                Marker::FixExt4 => (5, 0),
                Marker::U64 | Marker::I64 | Marker::F64 => (8, 0),
                Marker::FixExt8 => (9, 0),
                Marker::FixExt16 => (17, 0),
                Marker::FixStr(length) => (u64::from(length), 0),
                Marker::FixArray(length) => (0, u64::from(length)),
                Marker::FixMap(length) => (0, 2 * u64::from(length)),
                Marker::Str8 | Marker::Bin8 => (self.number(1)?, 0),
                Marker::Str16 | Marker::Bin16 => (self.number(2)?, 0),
                Marker::Str32 | Marker::Bin32 => (self.number(4)?, 0),
                Marker::Ext8 => (self.number(1)? + 1, 0),
                Marker::Ext16 => (self.number(2)? + 1, 0),
                Marker::Ext32 => (self.number(4)? + 1, 0),
                Marker::Array16 => (0, self.number(2)?),
                Marker::Array32 => (0, self.number(4)?),
                Marker::Map16 => (0, 2 * self.number(2)?),
                Marker::Map32 => (0, 2 * self.number(4)?),
                Marker::Reserved => return Err(UnreadableBatch("a value has a reserved marker")),
            };
            self.take(u32::try_from(bytes).map_err(|_| TRUNCATED)?)?;
            left += nested;
            // A value has at least one byte, so more values than bytes cannot follow.
            if left > self.rest.len() as u64 {
                return Err(TRUNCATED);
            }
        }
        Ok(())
    }

    /// Reads a big-endian number of this many bytes.
    fn number(&mut self, bytes: u32) -> Result<u64, UnreadableBatch> {
        let digits = self.take(bytes)?;
        Ok(digits
            .iter()
            .fold(0, |number, digit| number << 8 | u64::from(*digit)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn call()(
            id: u128,
            method in "[a-z_.é]{0,40}",
            time_to_live in prop::option::of(0..u64::from(u32::MAX)),
            arguments in prop::collection::vec(any::<u8>(), 0..300),
            headers in prop::collection::btree_map("[a-z-]{1,20}", ".{0,40}", 0..4),
        ) -> BatchedCall {
            let mut all = Headers::default();
            for (name, value) in headers {
                all.insert(ShortStr::new(name).unwrap(), value);
            }
            BatchedCall {
                id: Uuid::from_u128(id),
                method: ShortStr::new(method).unwrap(),
                time_to_live: time_to_live.map(Duration::from_millis),
                arguments: arguments.into(),
                headers: all,
            }
        }
    }

    prop_compose! {
        fn reply()(
            id: u128,
            kind in prop::sample::select(vec![ReplyKind::Result, ReplyKind::Error, ReplyKind::Fault]),
            body in prop::collection::vec(any::<u8>(), 0..300),
            batch_size: u16,
            header: Option<String>,
            queue_time in 0..1000_u64,
        ) -> BatchedReply {
            let mut headers = Headers::default();
            if let Some(value) = header {
                headers.insert(ShortStr::from_static("traceparent"), value);
            }
            BatchedReply {
                id: Uuid::from_u128(id),
                kind,
                body: body.into(),
                batch_size,
                headers,
                queue_time: QueueTime::from_millis(queue_time),
            }
        }
    }

    /// The beginning of a valid batch, followed by random bytes.
    fn truncated_batch() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..200);
        (
            prop::collection::vec(call(), 0..3),
            bytes,
            any::<prop::sample::Index>(),
        )
            .prop_map(|(calls, bytes, place)| {
                let mut body = write_batch(&calls).to_vec();
                let place = place.index(body.len());
                body.splice(place.., bytes);
                body
            })
    }

    proptest! {
        #[test]
        fn calls_survive_the_wire(calls in prop::collection::vec(call(), 0..20)) {
            let body = write_batch(&calls);
            prop_assert!(body.len() <= 5 + calls.iter().map(Part::size).sum::<usize>());
            prop_assert_eq!(read_batch::<BatchedCall>(&body).unwrap(), calls);
        }

        #[test]
        fn replies_survive_the_wire(replies in prop::collection::vec(reply(), 0..20)) {
            let body = write_batch(&replies);
            prop_assert!(body.len() <= 5 + replies.iter().map(Part::size).sum::<usize>());
            prop_assert_eq!(read_batch::<BatchedReply>(&body).unwrap(), replies);
        }

        #[test]
        fn reading_never_panics(body in truncated_batch()) {
            let body = Bytes::from(body);
            let _ = read_batch::<BatchedCall>(&body);
            let _ = read_batch::<BatchedReply>(&body);
        }
    }

    #[test]
    fn unknown_elements_are_skipped() {
        // [[id, 0, "x", 7, {}, 9, [{"later": nil}, 1.5, ext], "end"]]
        let mut body = b"\x91\x98\xc4\x10".to_vec();
        body.extend([9; 16]);
        body.extend(b"\x00\xc4\x01x\x07\x80\x09\x93\x81\xa5later\xc0\xca\x3f\xc0\x00\x00\xd6\x01abcd\xa3end");
        let replies = read_batch::<BatchedReply>(&Bytes::from(body)).unwrap();
        assert_eq!(replies.len(), 1);
        assert_eq!((&replies[0].body[..], replies[0].batch_size), (&b"x"[..], 7));
        assert_eq!(replies[0].queue_time, QueueTime::from_millis(9));
    }

    #[test]
    fn a_batch_that_is_larger_than_senders_make_it_is_refused() {
        let call = |bytes, headers| {
            let mut call = BatchedCall {
                id: Uuid::from_u128(1),
                method: ShortStr::from_static("read"),
                time_to_live: None,
                arguments: vec![0; bytes].into(),
                headers: Headers::default(),
            };
            for number in 0..headers {
                let name = ShortStr::new(format!("{number}")).unwrap();
                call.headers.insert(name, String::new());
            }
            call
        };
        let read = |calls: &[BatchedCall]| read_batch::<BatchedCall>(&write_batch(calls)).is_ok();
        // Its size is checked like that of a single request.
        assert!(read(&[call(MAX_READ_BYTES, 0)]));
        assert!(read(&[call(MAX_BATCH_BYTES, 0), call(1000, 0)]));
        assert!(!read(&[call(MAX_READ_BYTES, 0), call(0, 0)]));
        assert!(read(&[call(0, 500)]));
        assert!(!read(&[call(0, 2000)]));
    }

    #[test]
    fn a_batch_that_announces_more_than_it_has_is_refused() {
        for body in [
            &b"\xdd\xff\xff\xff\xff"[..],
            b"\x91\xdd\xff\xff\xff\xff",
            b"\x91\x94\xc6\xff\xff\xff\xff",
            b"\x91\x93",
        ] {
            assert!(read_batch::<BatchedReply>(&Bytes::from_static(body)).is_err());
            assert!(read_batch::<BatchedCall>(&Bytes::from_static(body)).is_err());
        }
        let mut nested = b"\x91\x97\xc4\x10".to_vec();
        nested.extend([9; 16]);
        nested.extend(b"\x00\xc4\x01x\x07\x80\x00");
        nested.extend([0x91; 100_000]);
        assert!(read_batch::<BatchedReply>(&Bytes::from(nested)).is_err());
    }

    #[test]
    fn the_example_of_the_protocol_page_is_correct() {
        let call = BatchedCall {
            id: Uuid::from_u128(0x00112233_4455_4677_8899_aabbccddeeff),
            method: ShortStr::from_static("get_email"),
            time_to_live: Some(Duration::from_secs(30)),
            arguments: Bytes::from_static(b"\x81\xa2id\xa6user:1"),
            headers: Headers::default(),
        };
        let expected = "91 95 c410 00112233445546778899aabbccddeeff a9 6765745f656d61696c cd7530 \
                        c40b 81a26964a6757365723a31 80";
        let hex: String = write_batch(&[call])
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, expected.replace(char::is_whitespace, ""));
    }
}
