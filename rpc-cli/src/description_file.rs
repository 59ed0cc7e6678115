//! Files with descriptions of services, as `rpc describe --json` writes them.

use std::path::Path;

use rpc_contract::ServiceDescription;
use serde::Deserialize as _;
use serde_json::Value;

use crate::failure::Failure;
use crate::input;

/// Reads the descriptions in a file, or from standard input if the path is `-`: one, or an array of
/// them.
pub(crate) fn read(file: &Path) -> Result<Vec<ServiceDescription>, Failure> {
    let text = input::read(file)?;
    parse(&text).map_err(|reason| no_description(file, &reason))
}

/// Returns the failure for a file that was read but has no description.
fn no_description(file: &Path, reason: &str) -> Failure {
    Failure::usage(
        format!(
            "{} does not contain the description of a service: {reason}",
            input::display_name(file).display()
        ),
        "write one with `rpc describe SERVICE --json`",
    )
}

/// Returns the only service, or the only one with this name if one is given.
pub(crate) fn only(
    services: Vec<ServiceDescription>,
    name: Option<&str>,
) -> Result<ServiceDescription, Failure> {
    let names: Vec<_> = services.iter().map(|service| service.name.clone()).collect();
    let matches = |service: &ServiceDescription| name.is_none_or(|name| service.name == name);
    let matching: Vec<_> = services.into_iter().filter(matches).collect();
    match <[_; 1]>::try_from(matching) {
        Ok([service]) => Ok(service),
        Err(_) => Err(Failure::usage(
            match name {
                Some(name) => format!(
                    "not exactly one of the services is called {name}: {}",
                    names.join(", ")
                ),
                None => format!("there are several services: {}", names.join(", ")),
            },
            "name one of them",
        )),
    }
}

fn parse(text: &str) -> Result<Vec<ServiceDescription>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let services = values.into_iter().map(|value| {
        let service = ServiceDescription::deserialize(value).map_err(|error| error.to_string())?;
        // An object with other fields can be read as a description: missing fields are empty.
        if service.name.is_empty() {
            return Err("it has no name".to_owned());
        }
        Ok(service)
    });
    let services: Vec<_> = services.collect::<Result<_, _>>()?;
    if services.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_file_or_standard_input() {
        for (path, name) in [("old.json", "old.json"), ("-", "standard input")] {
            let text = no_description(Path::new(path), "it is empty").text();
            let expected = format!("rpc: {name} does not contain the description of a service: it is empty");
            assert!(text.starts_with(&expected), "{text}");
        }
    }

    #[test]
    fn other_json_is_refused() {
        assert_eq!(parse(r#"{"name": "A"}"#).unwrap().len(), 1);
        assert_eq!(parse(r#"[{"name": "A"}, {"name": "B"}]"#).unwrap().len(), 2);
        for (bad, reason) in [
            ("", "EOF"),
            ("[]", "it is empty"),
            ("{}", "it has no name"),
            ("7", "invalid type"),
            (r#"[{"name": "A"}, {}]"#, "it has no name"),
            (r#"{"name": 7}"#, "invalid type"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }
}
