//! Prints results to stdout, and everything else to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::text::{escape_controls, one_line};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Whether `--json` is given.
    pub(crate) json: bool,
    /// Whether stdout is a terminal.
    pub(crate) is_terminal: bool,
}

impl Output {
    pub(crate) fn of_process(json: bool) -> Self {
        Self {
            json,
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Prints text for people, with control characters escaped. Prints nothing if it is empty.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        self.raw(&format!("{}\n", escape_controls(text.trim_end())))
    }

    /// Prints a value as JSON: on one line with `--json` or without a terminal, otherwise indented.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Failure> {
        let is_pretty = self.is_terminal && !self.json;
        self.raw(&format!("{}\n", to_json(value, is_pretty)?))
    }

    /// Prints JSON that is given in compact form, like [`value`](Self::value), with exact numbers.
    pub(crate) fn json_text(&self, json: &str) -> Result<(), Failure> {
        if self.is_terminal && !self.json {
            self.raw(&format!("{}\n", escape_controls(&pretty(json))))
        } else {
            self.json_line(json)
        }
    }

    /// Prints JSON that is given in compact form, which stays on one line, also on a terminal.
    pub(crate) fn json_line(&self, json: &str) -> Result<(), Failure> {
        self.raw(&format!("{}\n", escape_controls(json)))
    }

    /// Prints a value as JSON: indented, also without a terminal, unless `--json` is given.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.raw(&format!("{}\n", to_json(value, !self.json)?))
    }

    /// Prints text as it is.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(Failure::Output)
    }

    /// Prints a note about the result to stderr.
    pub(crate) fn note(&self, note: &str) {
        self.to_stderr(&if self.json {
            json!({"note": note}).to_string()
        } else {
            format!("rpc: {}", one_line(note))
        });
    }

    pub(crate) fn notes(&self, notes: &[String]) {
        for note in notes {
            self.note(note);
        }
    }

    /// Prints a failure to stderr, unless it is only that nobody reads stdout any more.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.is_reported() {
            self.to_stderr(&if self.json { failure.json() } else { failure.text() });
        }
    }

    fn to_stderr(self, text: &str) {
        // Without stderr there is nowhere to report the error.
        let _ = writeln!(io::stderr().lock(), "{}", escape_controls(text));
    }
}

fn to_json(value: &impl Serialize, is_pretty: bool) -> Result<String, Failure> {
    let json = if is_pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    json.map(|json| escape_controls(&json))
        .map_err(|error| Failure::Output(error.into()))
}

/// Puts compact JSON on several lines as `serde_json` does. Parsing it would round large numbers.
pub(crate) fn pretty(json: &str) -> String {
    let mut pretty = String::with_capacity(2 * json.len());
    // `is_escaped` is whether the last character of a text was a backslash that escapes the next
    // one.
    let (mut depth, mut in_text, mut is_escaped) = (0usize, false, false);
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        if in_text {
            let ends_text = character == '"' && !is_escaped;
            in_text = !ends_text;
            is_escaped = character == '\\' && !is_escaped;
            pretty.push(character);
            continue;
        }
        match character {
            '{' | '[' => {
                pretty.push(character);
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => pretty.push(end),
                    None => {
                        depth += 1;
                        new_line(&mut pretty, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut pretty, depth);
                pretty.push(character);
            }
            ',' => {
                pretty.push(',');
                new_line(&mut pretty, depth);
            }
            ':' => pretty.push_str(": "),
            other => {
                in_text = other == '"';
                pretty.push(other);
            }
        }
    }
    pretty
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_is_indented_like_serde_jsons() {
        let value = json!({
            "text": "a{\"b\\\",:[]}", "none": [{}, []], "deep": [[1, {"x": null}], "\\", true], "float": 1.5e-7
        });
        let expected = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(pretty(&value.to_string()), expected);
        assert_eq!(pretty(&u128::MAX.to_string()), u128::MAX.to_string());
    }

    #[test]
    fn json_has_no_control_characters() {
        let value = json!({"docs": "x\u{9b}\u{7f}\u{2028}\u{202e}\ny"});
        for is_pretty in [false, true] {
            let text = to_json(&value, is_pretty).unwrap();
            assert!(
                !text.contains(['\u{9b}', '\u{7f}', '\u{2028}', '\u{202e}']),
                "{text:?}"
            );
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }
}
