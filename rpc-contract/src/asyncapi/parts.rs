//! Small parts that many objects of a document have.

use serde_json::{Value, json};

/// The version of AsyncAPI's AMQP bindings.
pub(super) const BINDING_VERSION: &str = "0.3.0";

/// Returns a reference within the document. No key on the path has a character that needs escaping.
pub(super) fn reference(path: &[&str]) -> Value {
    json!({"$ref": format!("#/{}", path.join("/"))})
}

/// Adds `docs`, unless they are empty, to an object of the document.
pub(super) fn add_description(object: &mut Value, docs: &str) {
    if !docs.is_empty() {
        object["description"] = json!(docs);
    }
}
