//! What commands read: arguments, files, standard input.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

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

/// Reads the arguments of a call, as JSON: JSON itself, `-` for standard input, `@FILE` for a file; an empty map where there is nothing.
///
/// They stay text, which keeps their numbers exact.
pub(crate) fn arguments(given: Option<&str>) -> Result<String, Failure> {
    let (what, text) = match given {
        None => return Ok("{}".to_owned()),
        Some("-") => ("what standard input has".to_owned(), read(Path::new("-"))?),
        Some(given) => match given.strip_prefix('@') {
            Some(path) => (format!("what {path} has"), read(Path::new(path))?),
            None => (format!("the argument {given}"), given.to_owned()),
        },
    };
    if let Err(source) = serde_json::from_str::<IgnoredAny>(&text) {
        return Err(Failure::NoJson { what, source });
    }
    match text.trim_start().starts_with(['{', '[']) {
        true => Ok(text),
        false => Err(Failure::usage(
            format!("{what} is neither a JSON object nor an array"),
            "arguments go by name, '{\"id\": \"user:12345\"}', or in their order, '[\"user:12345\"]'",
        )),
    }
}

/// Reads arguments that were given one by one, as `name=value`: the value is JSON where it can be read as that, and else text.
/// The last one counts where a name is given twice.
pub(crate) fn named_arguments(given: &[(String, String)]) -> String {
    let value = |text: &str| match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => text.to_owned(),
        Err(_) => json_text(text),
    };
    let arguments: BTreeMap<_, _> = given.iter().map(|(name, text)| (name, value(text))).collect();
    let entries = arguments
        .iter()
        .map(|(name, value)| format!("{}:{value}", json_text(name)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

/// A text as JSON.
fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
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
    use super::*;

    #[test]
    fn arguments_are_an_object_or_an_array() {
        assert_eq!(arguments(None).unwrap(), "{}");
        assert_eq!(arguments(Some("{\"id\": 1}")).unwrap(), "{\"id\": 1}");
        assert_eq!(arguments(Some("[1]")).unwrap(), "[1]");
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
            r#"{"empty":"","equation":"a=b","id":"user:1","list":[1, 2],"n":7,"quoted":"7"}"#
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
