//! Where everything is printed: results to stdout, all else to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;

/// How a process prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// For programs.
    pub(crate) json: bool,
    pub(crate) is_terminal: bool,
}

impl Output {
    pub(crate) fn of_process(json: bool) -> Self {
        Self {
            json,
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Prints text for people; it may be empty.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        match text.is_empty() {
            true => Ok(()),
            false => self.raw(&format!("{}\n", clean(text.trim_end()))),
        }
    }

    /// Prints a value as JSON: on one line, but for people on several.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Failure> {
        let is_pretty = self.is_terminal && !self.json;
        self.raw(&format!("{}\n", to_json(value, is_pretty)?))
    }

    /// Prints compact JSON, like [`value`](Self::value). Its numbers stay as they are.
    pub(crate) fn json_text(&self, json: &str) -> Result<(), Failure> {
        match self.is_terminal && !self.json {
            true => self.raw(&format!("{}\n", clean(&pretty(json)))),
            false => self.raw(&format!("{}\n", clean(json))),
        }
    }

    /// Prints a value as JSON for people, whoever reads it.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.raw(&format!("{}\n", to_json(value, !self.json)?))
    }

    /// Prints exactly this.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(Failure::Output)
    }

    /// Tells something beside the result.
    pub(crate) fn note(&self, note: &str) {
        let told = match self.json {
            true => json!({"note": note}).to_string(),
            false => format!("rpc: {}", one_line(note)),
        };
        self.to_stderr(&told);
    }

    /// Tells why there is no result.
    pub(crate) fn fail(&self, failure: &Failure) {
        if failure.is_worth_telling() {
            let told = match self.json {
                true => failure.json(),
                false => failure.text(),
            };
            self.to_stderr(&told);
        }
    }

    fn to_stderr(self, text: &str) {
        // There is nobody else to tell.
        let _ = writeln!(io::stderr().lock(), "{}", clean(text));
    }
}

fn to_json(value: &impl Serialize, is_pretty: bool) -> Result<String, Failure> {
    let json = match is_pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    json.map(|json| clean(&json))
        .map_err(|error| Failure::Output(error.into()))
}

/// Compact JSON on several lines, as `serde_json` writes it.
fn pretty(json: &str) -> String {
    let mut pretty = String::with_capacity(2 * json.len());
    let (mut depth, mut in_text, mut is_escaped) = (0usize, false, false);
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        if in_text {
            in_text = is_escaped || character != '"';
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

/// The text with control characters escaped as JSON has them, but for the ends of lines: what a worker says may not steer the terminal.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => clean.push('\n'),
            steering if is_steering(steering) => clean.push_str(&format!("\\u{:04x}", steering as u32)),
            other => clean.push(other),
        }
    }
    clean
}

/// A name or a text of a worker's in one line: it may not look like another line of ours.
pub(crate) fn one_line(text: &str) -> String {
    clean(text).replace('\n', "\\n")
}

/// Lines below each other, each of which stays one.
pub(crate) fn joined(lines: impl IntoIterator<Item = String>) -> String {
    let lines: Vec<_> = lines.into_iter().map(|line| one_line(&line)).collect();
    lines.join("\n")
}

/// Whether a terminal does something other than to show a character: it obeys it, ends the line, or turns the direction of what follows.
fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_is_pretty_as_serde_json_has_it() {
        let value = json!({
            "text": "a{\"b\\\",:[]}", "none": [{}, []], "deep": [[1, {"x": null}], "\\", true], "float": 1.5e-7
        });
        let expected = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(pretty(&value.to_string()), expected);
        assert_eq!(pretty(&u128::MAX.to_string()), u128::MAX.to_string());
    }

    #[test]
    fn no_worker_steers_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\r\nc\u{9b}é"), "a\\u001b[2Jb\\u000d\nc\\u009bé");
        assert_eq!(one_line("a\nrpc: b\u{202e}"), "a\\nrpc: b\\u202e");
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
