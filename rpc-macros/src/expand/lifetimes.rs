//! Names for anonymous lifetimes: the fields of a struct cannot have the lifetime `'_`.

use syn::visit_mut::VisitMut;
use syn::{Lifetime, Type};

/// The type with this lifetime in place of each `'_`.
pub(super) fn with_lifetime(ty: &Type, lifetime: &str) -> Type {
    let mut ty = ty.clone();
    name_lifetimes(&mut ty, lifetime);
    ty
}

/// Whether the type has a `'_`.
pub(super) fn has_anonymous_lifetime(ty: &Type) -> bool {
    // The name does not matter: only the number of replacements does.
    name_lifetimes(&mut ty.clone(), "'named") > 0
}

/// Replaces each `'_` with this lifetime, and returns how many there were.
fn name_lifetimes(ty: &mut Type, lifetime: &str) -> usize {
    struct LifetimeNamer<'a> {
        lifetime: &'a str,
        replaced: usize,
    }

    impl VisitMut for LifetimeNamer<'_> {
        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            if lifetime.ident == "_" {
                *lifetime = Lifetime::new(self.lifetime, lifetime.span());
                self.replaced += 1;
            }
        }
    }

    let mut namer = LifetimeNamer {
        lifetime,
        replaced: 0,
    };
    namer.visit_type_mut(ty);
    namer.replaced
}
