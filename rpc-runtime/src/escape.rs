//! Escapes untrusted text for a log or a terminal.

use std::fmt::{self, Write};

/// The maximum length of a text in a log, in bytes.
const MAX_LOGGED: usize = 512;

/// Displays a text in one line. Control characters, line breaks and unprintable characters are
/// escaped as in a Rust string. Quotes and backslashes are not.
pub(crate) struct OneLine<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Like [`OneLine`], and cut off after [`MAX_LOGGED`] bytes.
pub(crate) struct Logged<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Logged<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_cut_off(f, MAX_LOGGED, OneLine(&self.0))
    }
}

/// Writes a text to `out`, but at most `max_bytes` bytes of it. Adds `…` if it cuts the text off.
pub(crate) fn write_cut_off(out: &mut impl Write, max_bytes: usize, text: impl fmt::Display) -> fmt::Result {
    let mut truncating = Truncating {
        out: &mut *out,
        room: max_bytes,
        is_cut_off: false,
    };
    let written = write!(truncating, "{text}");
    // If the text was cut off, an error only means that.
    if truncating.is_cut_off {
        out.write_char('…')
    } else {
        written
    }
}

/// Passes text on to a writer, escaped as [`OneLine`] says.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // `escape_debug` also escapes quotes and backslashes, so they are written separately.
        for part in text.split_inclusive(['"', '\'', '\\']) {
            let kept = part.strip_suffix(['"', '\'', '\\']).unwrap_or(part);
            write!(self.0, "{}", kept.escape_debug())?;
            self.0.write_str(&part[kept.len()..])?;
        }
        Ok(())
    }
}

/// A writer that fails once its input exceeds the limit.
struct Truncating<W> {
    out: W,
    /// How many more bytes may be written.
    room: usize,
    /// Whether some of the input did not fit.
    is_cut_off: bool,
}

impl<W: Write> Write for Truncating<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_cut_off {
            // A `Display` may ignore the error, and go on.
            return Err(fmt::Error);
        }
        // The end of the last character that fits.
        let end = (0..=self.room.min(text.len()))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        self.room -= end;
        self.out.write_str(&text[..end])?;
        self.is_cut_off = end < text.len();
        if self.is_cut_off { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_cannot_start_a_new_line_or_control_a_terminal() {
        let forged = "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}";
        assert_eq!(
            OneLine(forged).to_string(),
            r"x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}"
        );
    }

    #[test]
    fn printable_text_is_unchanged() {
        for text in [
            "",
            r#"no queue "a" in vhost '/'"#,
            r"C:\x",
            "naïve नमस्ते 日本",
            "'\"\\",
        ] {
            assert_eq!(OneLine(text).to_string(), text);
            assert_eq!(Logged(text).to_string(), text);
        }
    }

    #[test]
    fn a_long_text_is_truncated_in_a_log() {
        let whole = "é".repeat(MAX_LOGGED / 2);
        assert_eq!(Logged(&whole).to_string(), whole);
        assert_eq!(Logged(format!("{whole}x")).to_string(), format!("{whole}…"));
        let escapes = "\n".repeat(1_000_000);
        assert!(Logged(escapes).to_string().len() <= MAX_LOGGED + '…'.len_utf8());
    }

    #[test]
    fn a_display_that_ignores_errors_writes_no_more() {
        struct Careless;

        impl fmt::Display for Careless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for text in [&*"x".repeat(MAX_LOGGED - 1), "é", "y", ""] {
                    let _ = f.write_str(text);
                }
                Ok(())
            }
        }

        let expected = format!("{}…", "x".repeat(MAX_LOGGED - 1));
        assert_eq!(Logged(Careless).to_string(), expected);
    }

    proptest! {
        #[test]
        fn no_control_character_is_logged(text in any::<String>(), parts in 1_usize..4) {
            let shown = Logged(text.repeat(parts)).to_string();
            prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
}
