//! Reads files, standard input, and arguments of calls.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::failure::Failure;

/// The limit on what is read, in bytes: four times the default message limit of RabbitMQ 4.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What messages call a file that is read: its path, or `standard input` if that is `-`.
pub(crate) fn display_name(path: &Path) -> &Path {
    if path == Path::new("-") {
        Path::new("standard input")
    } else {
        path
    }
}

/// Reads a file, or standard input if the path is `-`. Fails if it is not UTF-8, or larger than
/// [`MAX_BYTES`].
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let failed = |source| Failure::File {
        path: display_name(path).to_owned(),
        source,
    };
    let mut text = String::new();
    let bytes_read = if path == Path::new("-") {
        let stdin = std::io::stdin().lock();
        stdin.take(MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text)
    };
    match bytes_read.map_err(failed)? as u64 {
        0..=MAX_BYTES => Ok(text),
        _ => Err(failed(std::io::Error::other("it has more than 64 MiB"))),
    }
}

/// Reads the arguments of a call: JSON, `-` for standard input, or `@FILE` for a file. Returns an
/// empty object if none are given.
///
/// The arguments stay text, so that their numbers stay exact.
pub(crate) fn arguments(given: Option<&str>) -> Result<String, Failure> {
    let (what, text) = match given {
        None => return Ok("{}".to_owned()),
        Some("-") => ("standard input".to_owned(), read(Path::new("-"))?),
        Some(given) => match given.strip_prefix('@') {
            Some(path) => (format!("the file {path}"), read(Path::new(path))?),
            None => (format!("the argument {given}"), given.to_owned()),
        },
    };
    check_arguments(&what, text)
}

/// Returns `text` if it is a JSON object or array. `what` is what messages call it.
pub(crate) fn check_arguments(what: &str, text: String) -> Result<String, Failure> {
    if let Err(source) = serde_json::from_str::<IgnoredAny>(&text) {
        let what = what.to_owned();
        return Err(Failure::InvalidJson { what, source });
    }
    if !text.trim_start().starts_with(['{', '[']) {
        return Err(Failure::usage(
            format!("{what} is neither a JSON object nor an array"),
            "write arguments by name, '{\"id\": \"user:12345\"}', or in order, '[\"user:12345\"]'",
        ));
    }
    Ok(text)
}

/// Returns arguments that were given as `name=value` as a JSON object. A value that is not JSON is
/// text. If a name is given twice, the last value counts.
pub(crate) fn named_arguments(given: &[(String, String)]) -> String {
    let to_json = |text: &str| match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => text.to_owned(),
        Err(_) => json_string(text),
    };
    let by_name: BTreeMap<_, _> = given.iter().map(|(name, text)| (name, to_json(text))).collect();
    let entries = by_name
        .iter()
        .map(|(name, value)| format!("{}:{value}", json_string(name)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Splits `name=value` at the first `=`. Only the value may be empty.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
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
    fn a_named_argument_that_is_not_json_is_text() {
        let given = [
            "id=user:1",
            "n=7",
            "quoted=\"7\"",
            "empty=",
            "list=[1, 2]",
            "equation=a=b",
        ];
        let given: Vec<_> = given
            .into_iter()
            .map(|given| parse_pair(given).unwrap())
            .collect();
        assert_eq!(
            named_arguments(&given),
            r#"{"empty":"","equation":"a=b","id":"user:1","list":[1, 2],"n":7,"quoted":"7"}"#
        );
        assert!(parse_pair("id").is_err() && parse_pair("=1").is_err());
    }
}
