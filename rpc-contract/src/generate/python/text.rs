//! Text in Python: literals and docstrings.

use super::super::layout::WIDTH;
use super::super::{docs, literals};

/// The columns by which each block is indented.
pub(super) const STEP: usize = 4;

/// Returns a string literal.
pub(super) fn literal(text: &str) -> String {
    literals::literal(text, |wide| format!("\\U{wide:08x}"))
}

/// Returns a docstring with this indentation, up to and with the end of its last line. Empty if
/// there is no documentation.
pub(super) fn docstring(docs: &str, indent: usize) -> String {
    // Leaves room for the six quotes around a single line.
    let lines = docs::lines(docs, WIDTH - indent - 6);
    let lines: Vec<_> = lines.iter().map(|line| escaped(line)).collect();
    let margin = " ".repeat(indent);
    match lines.as_slice() {
        [] => String::new(),
        [only] => {
            let before = space_beside_quote(only.starts_with('"'));
            let after = space_beside_quote(only.ends_with('"'));
            format!("{margin}\"\"\"{before}{only}{after}\"\"\"\n")
        }
        [first, ..] => {
            let mut docstring = format!("{margin}\"\"\"{}", space_beside_quote(first.starts_with('"')));
            for (index, line) in lines.iter().enumerate() {
                if index > 0 && !line.is_empty() {
                    docstring.push_str(&margin);
                }
                docstring.push_str(line);
                docstring.push('\n');
            }
            docstring.push_str(&format!("{margin}\"\"\"\n"));
            docstring
        }
    }
}

/// Returns a space if the text has a quote there, which must not join those of the docstring.
fn space_beside_quote(has_quote: bool) -> &'static str {
    if has_quote { " " } else { "" }
}

/// Escapes backslashes. Three double quotes would end the docstring, so they become `'''`.
fn escaped(line: &str) -> String {
    line.replace('\\', "\\\\").replace("\"\"\"", "'''")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docstrings_end_where_they_should() {
        assert_eq!(docstring("", 4), "");
        assert_eq!(docstring("One.", 4), "    \"\"\"One.\"\"\"\n");
        assert_eq!(docstring("One.\n\nTwo\\", 0), "\"\"\"One.\n\nTwo\\\\\n\"\"\"\n");
        assert_eq!(docstring("\"One\"", 0), "\"\"\" \"One\" \"\"\"\n");
        assert_eq!(
            docstring("\"One\"\n\"Two\"", 0),
            "\"\"\" \"One\"\n\"Two\"\n\"\"\"\n"
        );
        assert_eq!(docstring("a \"\"\" b", 0), "\"\"\"a ''' b\"\"\"\n");
    }
}
