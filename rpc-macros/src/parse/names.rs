//! Names that are left to generated code.
//!
//! It stands where the trait stands, and so do the names in the trait: its own begin with two underscores, and no others.

use syn::ext::IdentExt;
use syn::visit_mut::VisitMut;
use syn::{Attribute, Block, Ident, ItemTrait, Lifetime, Path};

use super::errors::Errors;

/// Refuses such names wherever generated code repeats what is written in the trait.
pub(super) fn refuse_reserved(item: &ItemTrait, errors: &mut Errors) {
    Names { errors }.visit_item_trait_mut(&mut item.clone());
}

/// Refuses a path that begins with such a name; those that follow are looked up elsewhere.
pub(super) fn refuse_reserved_path(path: &Path, errors: &mut Errors) {
    if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
        refuse(&first.ident, errors);
    }
}

fn refuse(name: &Ident, errors: &mut Errors) {
    let plain = name.unraw().to_string();
    if plain.starts_with("__") {
        let message = format!(
            "names that begin with two underscores are left to generated code; write another than `{plain}`"
        );
        errors.push(name, message);
    }
}

struct Names<'a> {
    errors: &'a mut Errors,
}

impl VisitMut for Names<'_> {
    fn visit_ident_mut(&mut self, name: &mut Ident) {
        refuse(name, self.errors);
    }

    fn visit_path_mut(&mut self, path: &mut Path) {
        refuse_reserved_path(path, self.errors);
        for segment in &mut path.segments {
            self.visit_path_arguments_mut(&mut segment.arguments);
        }
    }

    // Lifetimes have names of their own, attributes are read elsewhere, and bodies stay in the trait.

    fn visit_lifetime_mut(&mut self, _: &mut Lifetime) {}

    fn visit_attribute_mut(&mut self, _: &mut Attribute) {}

    fn visit_block_mut(&mut self, _: &mut Block) {}
}
