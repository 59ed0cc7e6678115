//! Names reserved for generated code.
//!
//! Generated code shares scopes with the user's names. Except for the client and the server, the
//! names that it adds to them begin with two underscores.

use syn::ext::IdentExt;
use syn::visit_mut::VisitMut;
use syn::{Attribute, Ident, Lifetime, Path};

use super::errors::Errors;
use crate::syntax::{ServiceTrait, TraitItem};

/// Refuses reserved names in the trait, but not in attributes and in bodies of methods.
pub(super) fn refuse_reserved(item: &ServiceTrait, errors: &mut Errors) {
    let mut visitor = ReservedNames { errors };
    // The visitor changes nothing. Only the mutable kind of syn's visitors is compiled.
    let mut item = item.clone();
    visitor.visit_ident_mut(&mut item.name);
    visitor.visit_generics_mut(&mut item.generics);
    for bound in &mut item.supertraits {
        visitor.visit_type_param_bound_mut(bound);
    }
    for item in &mut item.items {
        match item {
            TraitItem::Method(method) => visitor.visit_signature_mut(&mut method.signature),
            TraitItem::Other(other) => visitor.visit_trait_item_mut(other),
        }
    }
}

/// Refuses a path that begins with a reserved name. Names after a `::` are in other scopes, also if
/// the path begins with `::`.
pub(super) fn refuse_reserved_path(path: &Path, errors: &mut Errors) {
    if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
        refuse_if_reserved(&first.ident, errors);
    }
}

fn refuse_if_reserved(name: &Ident, errors: &mut Errors) {
    let plain = name.unraw().to_string();
    if plain.starts_with("__") {
        let message = format!(
            "names that begin with two underscores are reserved for generated code; rename `{plain}`"
        );
        errors.push(name, message);
    }
}

struct ReservedNames<'a> {
    errors: &'a mut Errors,
}

impl VisitMut for ReservedNames<'_> {
    fn visit_ident_mut(&mut self, name: &mut Ident) {
        refuse_if_reserved(name, self.errors);
    }

    fn visit_path_mut(&mut self, path: &mut Path) {
        refuse_reserved_path(path, self.errors);
        for segment in &mut path.segments {
            self.visit_path_arguments_mut(&mut segment.arguments);
        }
    }

    // Lifetimes have a namespace of their own. The module `serde` checks paths in `#[serde(..)]`.

    fn visit_lifetime_mut(&mut self, _: &mut Lifetime) {}

    fn visit_attribute_mut(&mut self, _: &mut Attribute) {}
}
