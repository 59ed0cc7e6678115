//! Descriptions from peers, which may be anything.

use proptest::prelude::*;

use super::*;
use crate::asyncapi;
use crate::description::tests::service as any_service;

proptest! {
    #[test]
    fn a_service_has_no_changes_to_itself(service in any_service()) {
        prop_assert_eq!(compare(&service, &service), []);
    }

    /// Schemas are any JSON here, and some names are equal.
    #[test]
    fn any_two_can_be_compared(old in any_service(), new in any_service()) {
        let _ = Rollout::of(&compare(&old, &new));
        let _ = asyncapi::document(&old, "1");
    }
}

/// A decoder limits how deep a schema can be: to 128 levels, as serde_json does.
#[test]
fn a_schema_as_deep_as_can_be_received() {
    let nested = |depth: usize| {
        let mut schema = json!({"type": "string"});
        for _ in 0..depth {
            schema = json!({"type": "array", "items": schema});
        }
        service(json!([{"name": "get", "result_schema": schema}]))
    };
    let received = |depth: usize| {
        let written = serde_json::to_vec(&nested(depth)).unwrap();
        serde_json::from_slice::<ServiceDescription>(&written)
    };
    let mut depth = 16;
    let mut deepest = received(depth).unwrap();
    while let Ok(deeper) = received(depth + 1) {
        (deepest, depth) = (deeper, depth + 1);
    }
    let less_deep = nested(50);
    assert_eq!(compare(&deepest, &deepest), []);
    let changes = compare(&less_deep, &deepest);
    assert!(!changes.is_empty());
    let _ = asyncapi::document(&deepest, "1");
}

/// Each level refers to the next one twice, so the number of paths doubles with each.
#[test]
fn a_schema_that_branches() {
    let branching = |leaf: &str| {
        let mut service = service(json!([{"name": "get", "result_schema": {"$ref": "#/definitions/0"}}]));
        for level in 0..40 {
            let next = json!({"$ref": format!("#/definitions/{}", level + 1)});
            let branch =
                |name: &str| json!({"type": "object", "properties": {name: next}, "required": [name]});
            service
                .definitions
                .insert(level.to_string(), json!({"anyOf": [branch("a"), branch("b")]}));
        }
        service.definitions.insert("40".to_owned(), json!({"type": leaf}));
        service
    };
    let changes = compare(&branching("string"), &branching("integer"));
    assert!(!changes.is_empty());
}
