//! Text from outside, made safe for a log or a terminal.

use std::fmt::{self, Write};

/// How much of a text a log shows, in bytes.
const MAX_LOGGED: usize = 512;

/// Shows a text in one line: control characters, line breaks and characters without a glyph are escaped as in a Rust string.
/// Quotes and backslashes stay as they are.
pub(crate) struct OneLine<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// As [`OneLine`], and cut where it gets long: for a log.
pub(crate) struct Logged<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Logged<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cutting = Cutting {
            out: &mut *f,
            room: MAX_LOGGED,
            is_full: false,
        };
        let written = write!(Escaping(&mut cutting), "{}", self.0);
        match cutting.is_full {
            true => f.write_char('…'),
            false => written,
        }
    }
}

/// Escapes what is written to it.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(['"', '\'', '\\']) {
            let kept = part.strip_suffix(['"', '\'', '\\']).unwrap_or(part);
            write!(self.0, "{}", kept.escape_debug())?;
            self.0.write_str(&part[kept.len()..])?;
        }
        Ok(())
    }
}

/// Fails once more is written to it than there is room for.
struct Cutting<W> {
    out: W,
    room: usize,
    is_full: bool,
}

impl<W: Write> Write for Cutting<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = (0..=self.room.min(text.len()))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        self.room -= end;
        self.out.write_str(&text[..end])?;
        self.is_full = end < text.len();
        match self.is_full {
            true => Err(fmt::Error),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_cannot_begin_a_line_of_its_own_nor_steer_a_terminal() {
        let forged = "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}";
        assert_eq!(
            OneLine(forged).to_string(),
            r"x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}"
        );
    }

    #[test]
    fn plain_text_stays_as_it_is() {
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
    fn a_long_text_is_cut_in_a_log() {
        let whole = "é".repeat(MAX_LOGGED / 2);
        assert_eq!(Logged(&whole).to_string(), whole);
        assert_eq!(Logged(format!("{whole}x")).to_string(), format!("{whole}…"));
        let escapes = "\n".repeat(1_000_000);
        assert!(Logged(escapes).to_string().len() <= MAX_LOGGED + '…'.len_utf8());
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_stays_in_its_line(text in any::<String>(), parts in 1_usize..4) {
            let shown = Logged(text.repeat(parts)).to_string();
            prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
}
