//! Refuses `#[rpc]` where it cannot be, and options inside `#[cfg_attr(..)]`.

use syn::Attribute;

use super::errors::Errors;
use crate::attributes::{find_in_cfg_attr, is_rpc};

/// Refuses every `#[rpc]` among the attributes.
pub(super) fn refuse_rpc(attributes: &[Attribute], message: &str, errors: &mut Errors) {
    for attribute in attributes.iter().filter(|attribute| is_rpc(attribute)) {
        errors.push(attribute, message);
    }
}

/// Refuses options inside `#[cfg_attr(..)]`: the macro runs before the condition is evaluated. The
/// message calls the item a `kind`, such as "method".
pub(super) fn refuse_conditional_options(attributes: &[Attribute], kind: &str, errors: &mut Errors) {
    for attribute in attributes {
        if let Some(conditional) = find_in_cfg_attr(attribute, &["rpc", "service"]) {
            let advice = format!("write the {kind} twice, each under its own `#[cfg(..)]`");
            errors.push(
                conditional.meta,
                format!("options cannot depend on a condition; {advice}"),
            );
        }
    }
}
