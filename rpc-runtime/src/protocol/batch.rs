//! Several calls, or several answers, in one message: MessagePack arrays of small arrays.
//!
//! ```text
//! calls:   [[id, method, time to live, arguments, headers, ...], ...]
//! answers: [[id, kind, body, wanted, headers, ...], ...]
//! ```
//!
//! The headers of an answer may be missing. An id is the sixteen bytes of a correlation id. Elements behind those that are known are skipped, so that one can be
//! added later.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use rmp::decode::{self, RmpRead};
use rmp::{Marker, encode};
use uuid::Uuid;

use super::headers::Headers;
use super::reply::ReplyKind;
use super::short_str::ShortStr;

/// The `type` of a message that holds several.
pub(crate) const BATCH_TYPE: &str = "rpc.batch";

/// What a worker's queue for batched requests is called, behind the name of the queue that it belongs to.
pub(crate) const BATCH_SUFFIX: &str = ".batch";

/// The header by which a request says that its caller can send and read batched messages, and a reply how many calls of its
/// method the worker wants in one.
pub(crate) const BATCH_HEADER: &str = "rpc-batch";

/// How many calls or answers one message may hold.
pub(crate) const MAX_BATCH_CALLS: usize = 1024;

/// How large such a message may grow.
pub(crate) const MAX_BATCH_BYTES: usize = 128 * 1024;

/// How large what goes into one may be: of what is larger, sending it takes longer than the message around it.
pub(crate) const MAX_PART_BYTES: usize = 8 * 1024;

/// What an id, lengths and counts add to a part, at most.
const PART_OVERHEAD: usize = 48;

/// One of several calls.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchedCall {
    pub(crate) id: Uuid,
    pub(crate) method: ShortStr,
    /// In whole milliseconds.
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) arguments: Bytes,
    pub(crate) headers: Headers,
}

/// One of several answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchedAnswer {
    pub(crate) id: Uuid,
    pub(crate) kind: ReplyKind,
    pub(crate) body: Bytes,
    /// How many calls of its method the worker wants in one message.
    pub(crate) wanted: u16,
    pub(crate) headers: Headers,
}

/// One of several calls, on its way out.
#[derive(Debug)]
pub(crate) struct OutgoingCall<'a> {
    pub(crate) id: Uuid,
    pub(crate) method: &'a str,
    /// In whole milliseconds.
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) arguments: &'a [u8],
    pub(crate) headers: Cow<'a, Headers>,
}

/// What goes into a batched message.
pub(crate) trait Part {
    /// How many bytes it takes at the most.
    fn size(&self) -> usize;

    fn write(&self, body: &mut Vec<u8>);
}

/// What is read out of one.
pub(crate) trait ReadPart: Sized {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Unreadable>;
}

/// Writes a message's body.
pub(crate) fn write_batch<P: Part>(parts: &[P]) -> Bytes {
    let size = parts.iter().map(Part::size).sum::<usize>();
    let mut body = Vec::with_capacity(size + 5);
    written(encode::write_array_len(&mut body, length(parts.len())));
    for part in parts {
        part.write(&mut body);
    }
    Bytes::from(body)
}

/// Reads a message's body. What is not copied keeps all of it in memory.
pub(crate) fn read_batch<P: ReadPart>(body: &Bytes) -> Result<Vec<P>, Unreadable> {
    let mut reader = Reader {
        whole: body,
        rest: body,
    };
    let count = reader.array()?;
    if count > MAX_BATCH_CALLS {
        return Err(Unreadable("it holds too many"));
    }
    // Each takes more than a byte, so no more is set aside than was sent.
    let mut parts = Vec::with_capacity(count.min(body.len() / 8));
    for _ in 0..count {
        parts.push(P::read(&mut reader)?);
    }
    match reader.rest {
        [] => Ok(parts),
        _ => Err(Unreadable("bytes are left over behind the last")),
    }
}

impl Part for OutgoingCall<'_> {
    fn size(&self) -> usize {
        PART_OVERHEAD + self.method.len() + self.arguments.len() + headers_size(&self.headers)
    }

    fn write(&self, body: &mut Vec<u8>) {
        written(encode::write_array_len(body, 5));
        written(encode::write_bin(body, self.id.as_bytes()));
        written(encode::write_str(body, self.method));
        match self.time_to_live {
            Some(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                written(encode::write_uint(body, millis).map(drop));
            }
            None => written(encode::write_nil(body).map_err(encode::ValueWriteError::InvalidMarkerWrite)),
        }
        written(encode::write_bin(body, self.arguments));
        write_headers(body, &self.headers);
    }
}

/// How many bytes headers take at the most.
pub(crate) fn headers_size(headers: &Headers) -> usize {
    headers.bytes() + 10 * headers.len()
}

fn write_headers(body: &mut Vec<u8>, headers: &Headers) {
    written(encode::write_map_len(body, length(headers.len())));
    for (name, value) in headers.iter() {
        written(encode::write_str(body, name));
        written(encode::write_str(body, value));
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
    fn read(reader: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let length = reader.array()?;
        let unknown = length
            .checked_sub(5)
            .ok_or(Unreadable("a call lacks something"))?;
        let call = Self {
            id: reader.id()?,
            method: reader.short_str()?,
            time_to_live: reader.optional_uint()?.map(Duration::from_millis),
            arguments: reader.bin()?,
            headers: reader.headers()?,
        };
        reader.skip(unknown)?;
        Ok(call)
    }
}

impl Part for BatchedAnswer {
    fn size(&self) -> usize {
        PART_OVERHEAD + self.body.len() + headers_size(&self.headers)
    }

    fn write(&self, body: &mut Vec<u8>) {
        let length = 4 + u32::from(!self.headers.is_empty());
        written(encode::write_array_len(body, length));
        written(encode::write_bin(body, self.id.as_bytes()));
        written(encode::write_uint(body, u64::from(self.kind.number())).map(drop));
        written(encode::write_bin(body, &self.body));
        written(encode::write_uint(body, u64::from(self.wanted)).map(drop));
        if !self.headers.is_empty() {
            write_headers(body, &self.headers);
        }
    }
}

impl ReadPart for BatchedAnswer {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let length = reader.array()?;
        let unknown = length
            .checked_sub(4)
            .ok_or(Unreadable("an answer lacks something"))?;
        let answer = Self {
            id: reader.id()?,
            kind: ReplyKind::from_number(reader.uint()?).ok_or(Unreadable("an answer's kind is unknown"))?,
            body: reader.bin()?,
            wanted: u16::try_from(reader.uint()?).unwrap_or(u16::MAX),
            headers: match unknown {
                0 => Headers::default(),
                _ => reader.headers()?,
            },
        };
        reader.skip(unknown.saturating_sub(1))?;
        Ok(answer)
    }
}

/// What was read, written again.
#[cfg(any(test, fuzzing))]
impl Part for BatchedCall {
    fn size(&self) -> usize {
        outgoing(self).size()
    }

    fn write(&self, body: &mut Vec<u8>) {
        outgoing(self).write(body);
    }
}

#[cfg(any(test, fuzzing))]
fn outgoing(call: &BatchedCall) -> OutgoingCall<'_> {
    OutgoingCall {
        id: call.id,
        method: call.method.as_str(),
        time_to_live: call.time_to_live,
        arguments: &call.arguments,
        headers: Cow::Borrowed(&call.headers),
    }
}

/// There is always room in a vector.
fn written<T, E: std::fmt::Debug>(result: Result<T, E>) {
    debug_assert!(result.is_ok(), "{:?}", result.err());
}

/// MessagePack counts in 32 bits, and messages are far smaller.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Why a batched message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batched message cannot be read: {0}")]
pub(crate) struct Unreadable(&'static str);

/// Reads what a peer sent, from the front.
pub(crate) struct Reader<'a> {
    whole: &'a Bytes,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn array(&mut self) -> Result<usize, Unreadable> {
        let length = decode::read_array_len(&mut self.rest).map_err(|_| Unreadable("an array is missing"))?;
        Ok(length as usize)
    }

    fn uint(&mut self) -> Result<u64, Unreadable> {
        decode::read_int(&mut self.rest).map_err(|_| Unreadable("a number is missing"))
    }

    fn optional_uint(&mut self) -> Result<Option<u64>, Unreadable> {
        match self.rest.first().copied().map(Marker::from_u8) {
            Some(Marker::Null) => {
                self.rest = &self.rest[1..];
                Ok(None)
            }
            _ => self.uint().map(Some),
        }
    }

    /// So many of the bytes that follow.
    fn take(&mut self, length: u32) -> Result<&[u8], Unreadable> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length as usize)
            .ok_or(Unreadable("it is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn bin(&mut self) -> Result<Bytes, Unreadable> {
        let length = decode::read_bin_len(&mut self.rest).map_err(|_| Unreadable("bytes are missing"))?;
        let whole = self.whole;
        Ok(whole.slice_ref(self.take(length)?))
    }

    fn id(&mut self) -> Result<Uuid, Unreadable> {
        let length = decode::read_bin_len(&mut self.rest).map_err(|_| Unreadable("an id is missing"))?;
        Uuid::from_slice(self.take(length)?).map_err(|_| Unreadable("an id is not of 16 bytes"))
    }

    fn str(&mut self) -> Result<&str, Unreadable> {
        let length = decode::read_str_len(&mut self.rest).map_err(|_| Unreadable("text is missing"))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Unreadable("text is not UTF-8"))
    }

    fn short_str(&mut self) -> Result<ShortStr, Unreadable> {
        ShortStr::new(self.str()?).map_err(|_| Unreadable("a name is longer than 255 bytes"))
    }

    fn headers(&mut self) -> Result<Headers, Unreadable> {
        let length = decode::read_map_len(&mut self.rest).map_err(|_| Unreadable("headers are missing"))?;
        let mut headers = Headers::default();
        for _ in 0..length {
            let name = self.short_str()?;
            headers.insert(name, self.str()?.to_owned());
        }
        Ok(headers)
    }

    /// Skips values that are not known here, however deeply they are nested.
    fn skip(&mut self, values: usize) -> Result<(), Unreadable> {
        const CUT_OFF: Unreadable = Unreadable("it is cut off");
        let mut left = values as u64;
        while left > 0 {
            left -= 1;
            let marker = Marker::from_u8(self.rest.read_u8().map_err(|_| CUT_OFF)?);
            let (bytes, values) = match marker {
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
                Marker::Str8 | Marker::Bin8 => (self.counted(1)?, 0),
                Marker::Str16 | Marker::Bin16 => (self.counted(2)?, 0),
                Marker::Str32 | Marker::Bin32 => (self.counted(4)?, 0),
                Marker::Ext8 => (self.counted(1)? + 1, 0),
                Marker::Ext16 => (self.counted(2)? + 1, 0),
                Marker::Ext32 => (self.counted(4)? + 1, 0),
                Marker::Array16 => (0, self.counted(2)?),
                Marker::Array32 => (0, self.counted(4)?),
                Marker::Map16 => (0, 2 * self.counted(2)?),
                Marker::Map32 => (0, 2 * self.counted(4)?),
                Marker::Reserved => return Err(Unreadable("a value is of no kind")),
            };
            self.take(u32::try_from(bytes).map_err(|_| CUT_OFF)?)?;
            left += values;
            // Each value takes a byte, so what is announced beyond that is not there.
            if left > self.rest.len() as u64 {
                return Err(CUT_OFF);
            }
        }
        Ok(())
    }

    /// A number of so many bytes.
    fn counted(&mut self, bytes: u32) -> Result<u64, Unreadable> {
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
        fn answer()(
            id: u128,
            kind in prop::sample::select(vec![ReplyKind::Result, ReplyKind::Error, ReplyKind::Fault]),
            body in prop::collection::vec(any::<u8>(), 0..300),
            wanted: u16,
            header: Option<String>,
        ) -> BatchedAnswer {
            let mut headers = Headers::default();
            if let Some(value) = header {
                headers.insert(ShortStr::from_static("traceparent"), value);
            }
            BatchedAnswer { id: Uuid::from_u128(id), kind, body: body.into(), wanted, headers }
        }
    }

    /// Bytes that begin like a batched message, and go on anyhow.
    fn almost() -> impl Strategy<Value = Vec<u8>> {
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
        fn answers_survive_the_wire(answers in prop::collection::vec(answer(), 0..20)) {
            let body = write_batch(&answers);
            prop_assert!(body.len() <= 5 + answers.iter().map(Part::size).sum::<usize>());
            prop_assert_eq!(read_batch::<BatchedAnswer>(&body).unwrap(), answers);
        }

        #[test]
        fn no_body_panics(body in almost()) {
            let body = Bytes::from(body);
            let _ = read_batch::<BatchedCall>(&body);
            let _ = read_batch::<BatchedAnswer>(&body);
        }
    }

    #[test]
    fn what_is_not_known_is_skipped() {
        // [[id, 0, "x", 7, {}, [{"later": nil}, 1.5, ext], "end"]]
        let mut body = b"\x91\x97\xc4\x10".to_vec();
        body.extend([9; 16]);
        body.extend(b"\x00\xc4\x01x\x07\x80\x93\x81\xa5later\xc0\xca\x3f\xc0\x00\x00\xd6\x01abcd\xa3end");
        let answers = read_batch::<BatchedAnswer>(&Bytes::from(body)).unwrap();
        assert_eq!(answers.len(), 1);
        assert_eq!((&answers[0].body[..], answers[0].wanted), (&b"x"[..], 7));
    }

    #[test]
    fn what_announces_too_much_is_refused() {
        for body in [
            &b"\xdd\xff\xff\xff\xff"[..],
            b"\x91\xdd\xff\xff\xff\xff",
            b"\x91\x94\xc6\xff\xff\xff\xff",
            b"\x91\x93",
        ] {
            assert!(read_batch::<BatchedAnswer>(&Bytes::from_static(body)).is_err());
            assert!(read_batch::<BatchedCall>(&Bytes::from_static(body)).is_err());
        }
        let mut nested = b"\x91\x96\xc4\x10".to_vec();
        nested.extend([9; 16]);
        nested.extend(b"\x00\xc4\x01x\x07\x80");
        nested.extend([0x91; 100_000]);
        assert!(read_batch::<BatchedAnswer>(&Bytes::from(nested)).is_err());
    }

    #[test]
    fn the_worked_example_of_the_protocol_page() {
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
