//! One rule per test: what has changed, and whom it breaks.

use serde_json::{Value, json};

use super::*;
use crate::ServiceDescription;

mod bounds;
mod rules;
mod schemas;

fn service(methods: Value) -> ServiceDescription {
    serde_json::from_value(json!({"name": "Store", "queue": "store", "methods": methods})).unwrap()
}

/// The verdicts and places of the changes, without their messages.
#[track_caller]
fn verdicts(old: &ServiceDescription, new: &ServiceDescription) -> Vec<(Verdict, String)> {
    let changes = compare(old, new);
    changes
        .into_iter()
        .map(|change| (change.verdict, change.place.to_string()))
        .collect()
}

#[track_caller]
fn assert_methods(old: Value, new: Value, expected: &[(Verdict, &str)]) {
    let verdicts = verdicts(&service(old), &service(new));
    let verdicts: Vec<_> = verdicts
        .iter()
        .map(|(verdict, place)| (*verdict, place.as_str()))
        .collect();
    assert_eq!(verdicts, expected);
}
