//! The lines of documentation in comments. Each language escapes what would end its comments.

/// The limit on the characters of a name in documentation.
const MAX_QUOTED: usize = 80;

/// Returns the lines of documentation, without blank lines at its ends. Lines that are longer than
/// `width` are broken between words.
///
/// A formatter would not change them: they have no tabs, no spaces at their ends, and, after the
/// first one, no indentation in common.
pub(super) fn lines(docs: &str, width: usize) -> Vec<String> {
    let cleaned: Vec<_> = docs.trim().lines().map(clean).collect();
    let indentation = |line: &String| line.len() - line.trim_start().len();
    let further = cleaned.iter().skip(1).filter(|line| !line.is_empty());
    let shared = further.map(indentation).min().unwrap_or(0);
    let mut lines = Vec::new();
    for (index, line) in cleaned.iter().enumerate() {
        let line = match index {
            0 => line.trim_start(),
            // A blank line is shorter than the indentation.
            _ => line.get(shared..).unwrap_or_default(),
        };
        wrap(line, width, &mut lines);
    }
    lines
}

/// Returns a name from the description in backticks, for documentation. Leaves out its backticks
/// and invisible characters, and cuts a long one.
pub(super) fn quoted(name: &str) -> String {
    let is_shown = |c: char| !is_invisible(c) && c != '`';
    let name: String = name.chars().filter(|c| is_shown(*c)).take(MAX_QUOTED).collect();
    format!("`{}`", name.trim())
}

/// Returns the line without what could end it or hide a part of it, with plain spaces instead of
/// other white space, and with none at its end.
fn clean(line: &str) -> String {
    let mut cleaned = String::with_capacity(line.len());
    for character in line.chars() {
        match character {
            '\t' => cleaned.push_str("    "),
            character if is_invisible(character) => {}
            // Other spaces look like this one, and formatters treat them differently.
            character if character.is_whitespace() => cleaned.push(' '),
            character => cleaned.push(character),
        }
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// Whether a character is not shown, or changes how others are shown.
pub(super) fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Adds a line, broken at its last spaces within `width`. A longer word stays whole, on a line of
/// its own.
fn wrap(mut line: &str, width: usize, lines: &mut Vec<String>) {
    while let Some((end, beyond)) = line.char_indices().nth(width) {
        let indentation = line.len() - line.trim_start().len();
        // A space just beyond the width counts: it will not be written.
        let last_within = line[..end + beyond.len_utf8()].rfind(' ');
        let first_beyond = || line[end..].find(' ').map(|space| end + space);
        let between_words = last_within.filter(|space| *space > indentation);
        let Some(space) = between_words.or_else(first_beyond) else {
            break;
        };
        lines.push(line[..space].trim_end().to_owned());
        line = line[space..].trim_start();
    }
    lines.push(line.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_clean() {
        let docs = "\n\n  One.\t\r\n\n    Two\u{202e}\u{85}\u{b}\u{2028}.  \n      Three.\n\n";
        assert_eq!(lines(docs, 80), ["One.", "", "Two.", "  Three."]);
        assert!(lines("", 80).is_empty() && lines(" \n\u{a0}\t", 80).is_empty());
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        assert_eq!(lines("one two three", 7), ["one two", "three"]);
        assert_eq!(lines("one two three", 6), ["one", "two", "three"]);
        assert_eq!(
            lines("one\n   twotwotwo three\n   x", 6),
            ["one", "twotwotwo", "three", "x"]
        );
    }
}
