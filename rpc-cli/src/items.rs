//! Reads the items that a call sends: JSON, an item a line.

use std::future::pending;
use std::io::{BufRead, Read as _};

use futures_util::{Stream, stream};
use serde::de::IgnoredAny;
use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;

/// The longest line with its end, in bytes: the default message limit of RabbitMQ 4.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// How many items wait in the channel to be sent. One more waits for room in it.
const MAX_AHEAD: usize = 16;

/// Returns the items on standard input. If a line is no item or cannot be read, `failed` gets the
/// reason, and the stream stays pending forever: if it ended, the items would look complete.
pub(crate) fn of_stdin(failed: oneshot::Sender<Failure>) -> impl Stream<Item = String> + Send + 'static {
    let (sender, receiver) = mpsc::channel(MAX_AHEAD);
    // Not `spawn_blocking`: at the end of the program, the runtime would wait for the thread, and
    // the thread for the next line.
    std::thread::spawn(move || {
        let mut lines = Lines::new(std::io::stdin().lock(), "standard input");
        while let Some(item) = lines.next_item().transpose() {
            let is_bad = item.is_err();
            let is_unwanted = sender.blocking_send(item.map_err(Failure::BadItems)).is_err();
            if is_bad || is_unwanted {
                break;
            }
        }
    });
    stream::unfold(
        (receiver, failed),
        async |(mut receiver, failed)| match receiver.recv().await? {
            Ok(item) => Some((item, (receiver, failed))),
            Err(failure) => {
                // An error means that nobody waits for the call any more.
                let _ = failed.send(failure);
                pending().await
            }
        },
    )
}

/// Returns the items in a text. Fails if a line is no item.
pub(crate) fn of_text(text: &str) -> Result<Vec<String>, Failure> {
    let mut lines = Lines::new(text.as_bytes(), "the items");
    let items: Result<_, _> = std::iter::from_fn(|| lines.next_item().transpose()).collect();
    items.map_err(|reason| Failure::usage(reason, "write each item as JSON on a line of its own"))
}

struct Lines<R> {
    reader: R,
    /// What is read.
    what: &'static str,
    /// The number of the line that was read last, from 1.
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, what: &'static str) -> Self {
        Self {
            reader,
            what,
            number: 0,
        }
    }

    /// Returns the line of the next item as it is, so that its numbers stay exact; `None` at the
    /// end. Skips empty lines. An error says which line is no item, and why; nothing may be read
    /// after it.
    fn next_item(&mut self) -> Result<Option<String>, String> {
        loop {
            let mut line = Vec::new();
            let read = self
                .reader
                .by_ref()
                .take(MAX_LINE + 1)
                .read_until(b'\n', &mut line);
            self.number += 1;
            let bad_line = |reason: String| {
                let (number, what) = (self.number, self.what);
                format!("line {number} of {what} {reason}")
            };
            match read {
                Ok(0) => return Ok(None),
                Ok(_) if line.len() as u64 > MAX_LINE => {
                    return Err(bad_line("has more than 16 MiB".to_owned()));
                }
                Ok(_) if line.trim_ascii().is_empty() => continue,
                Ok(_) => {}
                Err(error) => return Err(bad_line(format!("cannot be read: {error}"))),
            }
            let text = String::from_utf8(line).map_err(|_| bad_line("is not UTF-8".to_owned()))?;
            return match serde_json::from_str::<IgnoredAny>(&text) {
                Ok(_) => Ok(Some(text)),
                // serde_json counts lines within the item, which has only one.
                Err(error) => {
                    let reason = error.to_string().replace(" at line 1 column ", " at column ");
                    Err(bad_line(format!("is not JSON: {reason}")))
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(input: &[u8]) -> Vec<Result<String, String>> {
        let mut lines = Lines::new(input, "standard input");
        let mut items = Vec::new();
        while let Some(item) = lines.next_item().transpose() {
            let item = item.map(|item| item.trim().to_owned());
            items.push(item);
            if items.last().is_some_and(Result::is_err) {
                break;
            }
        }
        items
    }

    #[test]
    fn each_line_is_an_item() {
        let ok = |item: &str| Ok(item.to_owned());
        assert_eq!(
            items(b"1\n\n  {\"a\": [2]} \r\n\t\n\"x\""),
            [ok("1"), ok("{\"a\": [2]}"), ok("\"x\"")]
        );
        assert_eq!(items(b""), []);
        assert_eq!(of_text("1\n\n[2]").unwrap().len(), 2);
        let failure = of_text("1\n[2").unwrap_err().message();
        assert!(
            failure.starts_with("line 2 of the items is not JSON"),
            "{failure}"
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        let bad = |reason: &str| Err(format!("line 3 of standard input {reason}"));
        for (line, reason) in [
            (&b"{a: 1}"[..], "is not JSON: key must be a string at column 2"),
            (b"1 2", "is not JSON: trailing characters at column 3"),
            (b"\"\xff\"", "is not UTF-8"),
            (&[b' '; MAX_LINE as usize + 1], "has more than 16 MiB"),
        ] {
            let input = [b"7\n\n", line, b"\n8\n"].concat();
            assert_eq!(items(&input), [Ok("7".to_owned()), bad(reason)]);
        }
    }
}
