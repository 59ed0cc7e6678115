//! Compares default methods for callers that send a single argument as `text/plain`.

use serde_json::Value;

use super::arguments::{argument_place, distinct_arguments};
use super::change::{Changes, Place, Verdict};
use super::shapes::{self, Definitions};
use super::types::on_the_wire;
use crate::{ArgumentDescription, MethodDescription};

/// Types of the standard library that are not read from text.
const STRUCTURED: [&str; 6] = ["BTreeMap", "BTreeSet", "HashMap", "HashSet", "Option", "Vec"];

/// Compares two versions of a method for callers that name no method, and send its only argument as
/// text. If it has no arguments, it ignores the text.
pub(super) fn compare(
    old: &MethodDescription,
    new: &MethodDescription,
    (old_definitions, new_definitions): (&Definitions, &Definitions),
    changes: &mut Changes,
) {
    let was_read = match distinct_arguments(old)[..] {
        [] => true,
        [argument] => !is_structured(argument, old_definitions),
        _ => false,
    };
    if !old.is_default || !was_read {
        return;
    }
    let (place, change) = match distinct_arguments(new)[..] {
        [] => return,
        [argument] if is_structured(argument, new_definitions) => (
            argument_place(old, argument),
            "new workers read no `Option` and no structured type from text",
        ),
        [_] => return,
        _ => (
            Place::Method(old.name.clone()),
            "it takes more than one argument now",
        ),
    };
    let message = format!(
        "{change}: callers that send a single argument as `text/plain`, such as clients from RabbitMQ's tutorial, get `bad_request`"
    );
    changes.add(Verdict::MayBreakCallers, place, message);
}

/// Whether workers are known not to read the argument from text. Without a schema, only types of
/// the standard library are known.
fn is_structured(argument: &ArgumentDescription, definitions: &Definitions) -> bool {
    let name = on_the_wire(&argument.type_name);
    let (path, parameters) = name.split_once('<').unwrap_or((&name, ""));
    let generic = path.rsplit("::").next().unwrap_or_default();
    match &argument.schema {
        // Bytes are taken as they are.
        _ if generic == "Vec" && parameters == "u8>" => false,
        Some(schema) => is_structured_schema(schema, definitions),
        None => STRUCTURED.contains(&generic),
    }
}

/// Whether a schema is that of an `Option`, or allows nothing but objects and arrays.
fn is_structured_schema(schema: &Value, definitions: &Definitions) -> bool {
    let resolved = shapes::resolve(schema, definitions).and_then(|(schema, _)| schema.as_object());
    match resolved.and_then(|schema| shapes::alternatives(schema, definitions)) {
        Some(alternatives) => {
            let types: Vec<_> = alternatives
                .iter()
                .map(|schema| type_of(schema, definitions))
                .collect();
            types.contains(&Some("null")) || types.iter().copied().all(is_compound)
        }
        None => is_compound(type_of(schema, definitions)),
    }
}

fn is_compound(ty: Option<&str>) -> bool {
    matches!(ty, Some("array" | "object"))
}

fn type_of<'a>(schema: &'a Value, definitions: &'a Definitions) -> Option<&'a str> {
    let (schema, _) = shapes::resolve(schema, definitions)?;
    shapes::type_of(schema.as_object()?)
}
