//! What commands read: arguments, files, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::failure::Failure;

/// How much is read of a file, in bytes: more than any message may have.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Reads a file, or standard input where it is called `-`.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let failed = |source| Failure::File {
        path: match path == Path::new("-") {
            true => PathBuf::from("standard input"),
            false => path.to_owned(),
        },
        source,
    };
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text),
        false => {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(MAX_BYTES + 1).read_to_string(&mut text)
        }
    };
    match read.map_err(failed)? as u64 {
        0..=MAX_BYTES => Ok(text),
        _ => Err(failed(std::io::Error::other("it has more than 64 MiB"))),
    }
}

/// Reads the arguments of a call: JSON itself, `-` for standard input, `@FILE` for a file; an empty map where there is nothing.
pub(crate) fn arguments(given: Option<&str>) -> Result<Value, Failure> {
    let (what, text) = match given {
        None => return Ok(Value::Object(Map::new())),
        Some("-") => ("what standard input has".to_owned(), read(Path::new("-"))?),
        Some(given) => match given.strip_prefix('@') {
            Some(path) => (format!("what {path} has"), read(Path::new(path))?),
            None => (format!("the argument {given}"), given.to_owned()),
        },
    };
    let value = serde_json::from_str(&text).map_err(|source| Failure::NoJson {
        what: what.clone(),
        source,
    })?;
    match value {
        Value::Object(_) | Value::Array(_) => Ok(value),
        _ => Err(Failure::usage(
            format!("{what} is neither a JSON object nor an array"),
            "arguments go by name, '{\"id\": \"user:12345\"}', or in their order, '[\"user:12345\"]'",
        )),
    }
}

/// Reads arguments that were given one by one, as `name=value`: the value is JSON where it can be read as that, and else text.
pub(crate) fn named_arguments(given: &[(String, String)]) -> Value {
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let arguments = given.iter().map(|(name, text)| (name.clone(), value(text)));
    Value::Object(arguments.collect())
}

/// Splits `name=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// The words of a command that calls a method: `SERVICE METHOD [ARGUMENTS]`, of which `--queue` makes the service needless.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Words<'a> {
    pub(crate) service: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) arguments: Option<&'a str>,
}

impl<'a> Words<'a> {
    /// Tells them apart: arguments begin as JSON objects and arrays do, or with `@`, or are `-`.
    pub(crate) fn new(words: &[&'a str], has_queue: bool) -> Result<Self, Failure> {
        let is_arguments = |word: &str| word == "-" || word.trim_start().starts_with(['{', '[', '@']);
        let (names, arguments) = match words {
            [names @ .., last] if !names.is_empty() && is_arguments(last) => (names, Some(*last)),
            names => (names, None),
        };
        match *names {
            [service, method] => Ok(Self {
                service: Some(service),
                method,
                arguments,
            }),
            [method] if has_queue => Ok(Self {
                service: None,
                method,
                arguments,
            }),
            [only] => Err(Failure::usage(
                format!("{only} is given, and a method is missing"),
                format!(
                    "write `SERVICE METHOD`, or `--queue QUEUE METHOD`; `rpc describe {only}` shows the methods of a service"
                ),
            )),
            [_, _, third] => Err(Failure::usage(
                format!("{third} is neither a JSON object nor an array"),
                "arguments go by name, '{\"id\": \"user:12345\"}', or in their order, '[\"user:12345\"]'; or one by one: --arg id=user:12345",
            )),
            _ => Err(Failure::usage(
                "a service and a method are missing",
                "write `SERVICE METHOD`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_an_object_or_an_array() {
        assert_eq!(arguments(None).unwrap(), json!({}));
        assert_eq!(arguments(Some("{\"id\": 1}")).unwrap(), json!({"id": 1}));
        assert_eq!(arguments(Some("[1]")).unwrap(), json!([1]));
        for bad in ["user:1", "{id: 1}", "7", "{} {}", "@/nowhere/at/all"] {
            let failure = arguments(Some(bad)).unwrap_err();
            assert_eq!(failure.outcome() as u8, 2, "{bad}");
        }
    }

    #[test]
    fn a_named_argument_is_json_or_else_text() {
        let given = [
            "id=user:1",
            "n=7",
            "quoted=\"7\"",
            "empty=",
            "list=[1, 2]",
            "equation=a=b",
        ];
        let given: Vec<_> = given.into_iter().map(|given| pair(given).unwrap()).collect();
        assert_eq!(
            named_arguments(&given),
            json!({"id": "user:1", "n": 7, "quoted": "7", "empty": "", "list": [1, 2], "equation": "a=b"})
        );
        assert!(pair("id").is_err() && pair("=1").is_err());
    }

    #[test]
    fn words_are_told_apart_by_what_json_begins_with() {
        let words = |words: &[&'static str], has_queue| {
            let Words {
                service,
                method,
                arguments,
            } = Words::new(words, has_queue).map_err(|failure| failure.outcome())?;
            Ok((service, method, arguments))
        };
        assert_eq!(words(&["S", "m"], false), Ok((Some("S"), "m", None)));
        assert_eq!(words(&["S", "m", "{}"], false), Ok((Some("S"), "m", Some("{}"))));
        assert_eq!(words(&["m", "-"], true), Ok((None, "m", Some("-"))));
        assert_eq!(words(&["m"], true), Ok((None, "m", None)));
        assert_eq!(words(&["S", "m", "@f"], true), Ok((Some("S"), "m", Some("@f"))));
        for (bad, has_queue) in [
            (&["S"][..], false),
            (&["S", "{}"], false),
            (&["S", "m", "user:1"], false),
            (&[], true),
        ] {
            assert_eq!(
                words(bad, has_queue),
                Err(crate::failure::Outcome::Unusable),
                "{bad:?}"
            );
        }
    }
}
