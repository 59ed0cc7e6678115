//! Text from workers, made safe to print on a terminal.

/// Returns the text with [control characters](is_control) escaped as in JSON, except for line
/// feeds, so that a worker's text cannot control the terminal.
pub(crate) fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push('\n'),
            control if is_control(control) => escaped.push_str(&format!("\\u{:04x}", control as u32)),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Returns the text on one line, with line feeds escaped too, so that it cannot look like another
/// line of the output.
pub(crate) fn one_line(text: &str) -> String {
    escape_controls(text).replace('\n', "\\n")
}

/// Joins texts, each on a line of its own: see [`one_line`].
pub(crate) fn join_lines(lines: impl IntoIterator<Item = String>) -> String {
    let lines: Vec<_> = lines.into_iter().map(|line| one_line(&line)).collect();
    lines.join("\n")
}

/// Whether a terminal may do anything but show the character: obey it, end the line, or change the
/// direction of the text.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            escape_controls("a\u{1b}[2Jb\r\nc\u{9b}é"),
            "a\\u001b[2Jb\\u000d\nc\\u009bé"
        );
        assert_eq!(one_line("a\nrpc: b\u{202e}"), "a\\nrpc: b\\u202e");
        assert_eq!(join_lines(["a\nb".to_owned(), "c".to_owned()]), "a\\nb\nc");
    }
}
