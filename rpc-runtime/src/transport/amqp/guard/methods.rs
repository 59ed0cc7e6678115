//! Methods that a broker sends, and the short strings in them.
//!
//! Other clients choose some of those strings. A delivery has the routing key that its publisher
//! chose. The reason for closing a channel may quote a name that another client declared, and is
//! cut off after 255 bytes, even within a character. lapin closes the connection because of a
//! string that is not UTF-8.

use super::cursor::Cursor;
use super::violation::ProtocolViolation;
use super::{channels, content};

/// A field of a method's arguments.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// This many bytes.
    Fixed(usize),
    ShortString,
    LongString,
    Table,
}

use Field::{Fixed, LongString, ShortString, Table};

/// What a method says about later frames.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MethodInfo {
    Nothing,
    /// The maximum size of a frame in bytes that the broker allows.
    MaxFrame(usize),
    /// `channel.open-ok`.
    ChannelOpened,
    /// `channel.close`: the broker closes the channel.
    ChannelClosed,
    /// `channel.close-ok`: the broker confirms that lapin has closed the channel.
    CloseConfirmed,
}

const CONNECTION_START: (u16, u16) = (10, 10);
const CONNECTION_TUNE: (u16, u16) = (10, 30);

/// The arguments of a method. `None` if brokers do not send it.
const fn fields_of(method: (u16, u16)) -> Option<&'static [Field]> {
    Some(match method {
        // basic: deliver, ack, nack, return, get-ok, get-empty, qos-ok, consume-ok, cancel,
        // cancel-ok, recover-ok
        (60, 60) => &[ShortString, Fixed(9), ShortString, ShortString],
        (60, 80 | 120) => &[Fixed(9)],
        (60, 50) => &[Fixed(2), ShortString, ShortString, ShortString],
        (60, 71) => &[Fixed(9), ShortString, ShortString, Fixed(4)],
        (60, 72) => &[ShortString],
        (60, 11 | 111) => &[],
        (60, 21 | 31) => &[ShortString],
        (60, 30) => &[ShortString, Fixed(1)],
        // connection: start, secure, tune, open-ok, close, close-ok, blocked, unblocked,
        // update-secret-ok
        CONNECTION_START => &[Fixed(2), Table, LongString, LongString],
        (10, 20) => &[LongString],
        CONNECTION_TUNE => &[Fixed(8)],
        (10, 41) => &[ShortString],
        (10, 50) => &[Fixed(2), ShortString, Fixed(4)],
        (10, 51 | 61 | 71) => &[],
        (10, 60) => &[ShortString],
        // channel: open-ok, flow, flow-ok, close, close-ok
        (20, 11) => &[LongString],
        (20, 20 | 21) => &[Fixed(1)],
        (20, 40) => &[Fixed(2), ShortString, Fixed(4)],
        (20, 41) => &[],
        // access: request-ok
        (30, 11) => &[Fixed(2)],
        // exchange: declare-ok, delete-ok, bind-ok, unbind-ok
        (40, 11 | 21 | 31 | 51) => &[],
        // queue: declare-ok, bind-ok, purge-ok, delete-ok, unbind-ok
        (50, 11) => &[ShortString, Fixed(8)],
        (50, 21 | 51) => &[],
        (50, 31 | 41) => &[Fixed(4)],
        // confirm: select-ok
        (85, 11) => &[],
        // tx: select-ok, commit-ok, rollback-ok
        (90, 11 | 21 | 31) => &[],
        _ => return None,
    })
}

/// Makes the short strings of a method UTF-8, and returns what the method says about later frames.
/// Each invalid byte is replaced by a question mark, so that no length changes. If the method ends
/// too early, its incomplete argument is left unchanged, and lapin reports the error.
///
/// # Errors
///
/// Fails if brokers do not send this method, or if one of its tables cannot be read.
pub(super) fn repair(payload: &mut [u8]) -> Result<MethodInfo, ProtocolViolation> {
    let Some((head, arguments)) = payload.split_first_chunk_mut::<4>() else {
        return Ok(MethodInfo::Nothing);
    };
    let [a, b, c, d] = *head;
    let method = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let fields = fields_of(method).ok_or(ProtocolViolation::UnknownMethod {
        class: method.0,
        method: method.1,
    })?;
    let mut at = 0;
    for field in fields {
        let Some(range) = value_range(arguments, at, *field) else {
            return Ok(MethodInfo::Nothing);
        };
        at = range.end;
        match field {
            ShortString => repair_text(&mut arguments[range]),
            Table => content::check_table(&arguments[range]).map_err(ProtocolViolation::Table)?,
            Fixed(_) | LongString => {}
        }
    }
    Ok(match (method, &*arguments) {
        // `channel_max` and `frame_max`. Zero means that there is no limit.
        (CONNECTION_TUNE, &[_, _, a, b, c, d, ..]) => match u32::from_be_bytes([a, b, c, d]) {
            0 => MethodInfo::Nothing,
            max => MethodInfo::MaxFrame(usize::try_from(max).unwrap_or(usize::MAX)),
        },
        (channels::OPEN_OK, _) => MethodInfo::ChannelOpened,
        (channels::CLOSE, _) => MethodInfo::ChannelClosed,
        (channels::CLOSE_OK, _) => MethodInfo::CloseConfirmed,
        _ => MethodInfo::Nothing,
    })
}

/// The range of a field's value, without the length before it. The field begins at `at`. `None` if
/// it does not end within the arguments.
fn value_range(arguments: &[u8], at: usize, field: Field) -> Option<std::ops::Range<usize>> {
    let mut cursor = Cursor::at(arguments, at);
    let content = match field {
        Fixed(bytes) => cursor.take(bytes)?,
        ShortString => cursor.short()?,
        LongString | Table => cursor.long()?,
    };
    let end = cursor.position();
    Some(end - content.len()..end)
}

/// Replaces each byte that makes the text invalid by a question mark.
fn repair_text(mut text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        let from = error.valid_up_to();
        let bad = error.error_len().unwrap_or(text.len() - from);
        let (bad, rest) = text[from..].split_at_mut(bad);
        bad.fill(b'?');
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{deliver, short_string};
    use super::*;

    #[test]
    fn a_routing_key_that_is_not_utf8_is_repaired_and_keeps_its_length() {
        let mut payload = deliver(b"tag", b"ex\xc3", "käse".as_bytes());
        let same = payload.clone();
        assert_eq!(repair(&mut payload), Ok(MethodInfo::Nothing));
        assert_eq!(payload, deliver(b"tag", b"ex?", "käse".as_bytes()));
        assert_eq!(payload.len(), same.len());

        let mut payload = deliver(b"tag", b"", b"user\xff\xfe:1");
        repair(&mut payload).unwrap();
        assert_eq!(payload, deliver(b"tag", b"", b"user??:1"));
    }

    #[test]
    fn a_reason_that_is_cut_within_a_character_is_repaired() {
        let reason = &"no queue 'bücher'".as_bytes()[..11];
        let close = |reason: &[u8]| [&[0, 20, 0, 40, 1, 148], &short_string(reason)[..], &[0; 4]].concat();
        let mut payload = close(reason);
        repair(&mut payload).unwrap();
        assert_eq!(payload, close(b"no queue 'b?"[..11].as_ref()));
    }

    #[test]
    fn the_maximum_frame_size_is_read_from_tune() {
        let tune = |max: u32| [&[0, 10, 0, 30, 7, 255][..], &max.to_be_bytes(), &[0, 60]].concat();
        assert_eq!(repair(&mut tune(8192)), Ok(MethodInfo::MaxFrame(8192)));
        assert_eq!(repair(&mut tune(0)), Ok(MethodInfo::Nothing));
    }

    #[test]
    fn methods_that_only_clients_send_are_errors() {
        // queue.declare has a table.
        let refused = ProtocolViolation::UnknownMethod {
            class: 50,
            method: 10,
        };
        assert_eq!(repair(&mut [0, 50, 0, 10]), Err(refused));
        let start = |table: &[u8]| {
            let size = u32::try_from(table.len()).unwrap().to_be_bytes();
            [&[0, 10, 0, 10, 0, 9], &size[..], table, &[0; 8]].concat()
        };
        assert_eq!(
            repair(&mut start(b"\x01av".map(|b| b.to_ascii_uppercase()).as_ref())),
            Ok(MethodInfo::Nothing)
        );
        assert!(matches!(
            repair(&mut start(b"\x01a?")),
            Err(ProtocolViolation::Table(_))
        ));
    }
}
