//! `rpc dead QUEUE show`.

use std::time::SystemTime;

use clap::Args;
use serde_json::Value;

use super::hold::Hold;
use crate::dead_letters::find::find;
use crate::dead_letters::headers::properties_json;
use crate::dead_letters::letter::{Letter, time_at};
use crate::dead_letters::scan::{Scan, ctrl_c};
use crate::dead_letters::wanted::parse_id;
use crate::failure::{Failure, Outcome};
use crate::options::Options;
use crate::output::{Output, pretty};
use crate::text::{escape_controls, one_line};
use crate::units;

/// How much of a body that cannot be read is shown, in bytes.
const MAX_DUMP: usize = 256;

/// The last second of the year 9999, in milliseconds since 1970. `humantime` formats no later one.
const MAX_DATE: u64 = 253_402_300_799_000;

/// Shows one letter with everything in it.
#[derive(Debug, Args)]
pub(super) struct ShowLetter {
    /// The letter's id, or the beginning of it.
    #[arg(value_parser = parse_id)]
    id: String,

    #[command(flatten)]
    hold: Hold,
}

impl ShowLetter {
    pub(super) async fn run(
        &self,
        queue: &str,
        options: &Options,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        let mut scan = Scan::open(queue, self.hold.limit(), ctrl_c(), options).await?;
        let needs_bodies = true;
        let found = find(&mut scan, queue, std::slice::from_ref(&self.id), needs_bodies).await;
        let (notes, finished) = scan.finish().await;
        output.notes(&notes);
        let found = found?;
        finished?;
        for letter in found {
            if output.json {
                output.json_text(&json(&letter))?;
            } else {
                output.text(&text(&letter, SystemTime::now()))?;
            }
        }
        Ok(Outcome::Done)
    }
}

/// Returns everything that is in a letter, for people. A body that cannot be read is cut.
fn text(letter: &Letter, now: SystemTime) -> String {
    let Letter { id, message, facts } = letter;
    let fields = [
        ("id", Some(id.clone())),
        ("method", facts.method.clone()),
        ("reason", facts.reason.clone()),
        ("attempts", facts.attempts.map(|attempts| attempts.to_string())),
        (
            "first failed",
            facts.first_failure.map(|millis| date(millis, now)),
        ),
        ("last failed", facts.last_failure.map(|millis| date(millis, now))),
        ("origin", facts.origin.clone()),
        ("user", facts.user.clone()),
        ("size", Some(units::show_size(facts.size))),
        ("unreadable", message.malformed.clone()),
    ];
    let fields = fields
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name:<14}{}", one_line(&value?))));
    let mut text = fields.collect::<Vec<_>>().join("\n");
    let mut section = |name: &str, content: &str| {
        if !content.is_empty() {
            text.push_str(&format!("\n{name}\n{}", indented(content)));
        }
    };
    section("error", facts.error.as_deref().unwrap_or_default());
    section("properties", &entries(&properties_json(&message.properties)));
    section("headers", &entries(&letter.headers()));
    match letter.arguments() {
        Some(json) => section("arguments", &pretty(&json)),
        None => section("body", &dump(&message.body)),
    }
    text
}

/// The entries of a JSON object, one per line.
fn entries(object: &Value) -> String {
    let entries = object.as_object().into_iter().flatten();
    let lines = entries.map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        one_line(&format!("{name}: {value}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Indents all lines, so that none looks like another field.
fn indented(text: &str) -> String {
    let lines = text.lines().map(|line| format!("    {}", escape_controls(line)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A time, and how long ago it was: `0s ago` for one in the future. After [`MAX_DATE`], only the
/// number of milliseconds.
fn date(millis: u64, now: SystemTime) -> String {
    match time_at(millis) {
        Some(time) if millis <= MAX_DATE => {
            let age = now.duration_since(time).unwrap_or_default();
            let date = humantime::format_rfc3339_seconds(time);
            format!("{date}, {} ago", units::show_age(age))
        }
        _ => format!("{millis} milliseconds after 1970"),
    }
}

/// The first [`MAX_DUMP`] bytes of a body that cannot be read, in hexadecimal.
fn dump(body: &[u8]) -> String {
    let shown = &body[..body.len().min(MAX_DUMP)];
    let lines = shown.chunks(32).map(hex);
    let mut lines: Vec<_> = lines.collect();
    if shown.len() < body.len() {
        lines.push(format!(
            "... {} more; `--json` shows all",
            units::count(body.len() - shown.len(), "byte")
        ));
    }
    lines.join("\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(letter: &Letter) -> String {
    let mut json = letter.facts.json(&letter.id);
    json["properties"] = properties_json(&letter.message.properties);
    json["headers"] = letter.headers();
    json["malformed"] = letter.message.malformed.clone().into();
    let arguments = letter.arguments();
    if arguments.is_none() {
        json["body_hex"] = hex(&letter.message.body).into();
    }
    let json = json.to_string();
    // The arguments are added as text: parsing them would round large numbers.
    let rest = json.strip_prefix('{').unwrap_or(&json);
    format!(
        "{{\"arguments\":{},{rest}",
        arguments.as_deref().unwrap_or("null")
    )
}

#[cfg(test)]
mod tests {
    use rpc_runtime::__tools::lapin::types::AMQPValue;

    use super::*;
    use crate::dead_letters::letter::Facts;
    use crate::dead_letters::letter::tests::{long, message};

    fn letter(headers: &[(&'static str, AMQPValue)], content_type: &str, body: &[u8]) -> Letter {
        let mut message = message(headers, body);
        message.properties = message
            .properties
            .with_type("send".into())
            .with_content_type(content_type.into());
        Letter {
            id: "ab".to_owned(),
            facts: Facts::read(&message),
            message,
        }
    }

    #[test]
    fn a_letter_is_shown_with_everything() {
        let headers = [
            ("rpc-error", long("no route\nid  forged\u{1b}[2J")),
            ("rpc-last-failure", long("60000")),
        ];
        let letter = letter(
            &headers,
            "application/json",
            br#"{"n":18446744073709551617,"to":"a"}"#,
        );
        assert_eq!(
            text(&letter, time_at(125_000).unwrap()),
            r#"id            ab
method        send
last failed   1970-01-01T00:01:00Z, 65s ago
size          35 B
error
    no route
    id  forged\u001b[2J
properties
    content_type: application/json
    type: send
headers
    rpc-error: no route\nid  forged\u001b[2J
    rpc-last-failure: 60000
arguments
    {
      "n": 18446744073709551617,
      "to": "a"
    }"#
        );
        let json = json(&letter);
        assert!(
            json.starts_with(r#"{"arguments":{"n":18446744073709551617,"to":"a"},"#),
            "{json}"
        );
        assert!(serde_json::from_str::<Value>(&json).is_ok());
    }

    #[test]
    fn a_body_that_cannot_be_read_is_shown_as_bytes() {
        let letter = letter(&[], "image/png", &[0xab; 300]);
        let text = text(&letter, SystemTime::now());
        assert!(
            text.ends_with("abab\n    ... 44 bytes more; `--json` shows all"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&json(&letter)).unwrap();
        assert_eq!(
            (&json["arguments"], json["body_hex"].as_str().unwrap().len()),
            (&Value::Null, 600)
        );
    }

    #[test]
    fn a_date_can_be_any_number() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(date(0, now), "1970-01-01T00:00:00Z, 0s ago");
        assert_eq!(date(MAX_DATE, now), "9999-12-31T23:59:59Z, 0s ago");
        for millis in [MAX_DATE + 1, u64::MAX] {
            assert!(date(millis, now).contains("after 1970"));
        }
    }
}
