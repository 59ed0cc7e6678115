//! Spans that decide what the compiler underlines.

use syn::spanned::Spanned;
use syn::{Ident, Path};

use crate::model::Argument;

/// The path with spans at `at`: the compiler underlines `at` in place of the path.
pub(super) fn located_at(path: &Path, at: &impl Spanned) -> Path {
    let mut path = path.clone();
    if let Some(colons) = &mut path.leading_colon {
        colons.spans = colons.spans.map(|span| span.located_at(at.span()));
    }
    for segment in &mut path.segments {
        segment.ident.set_span(segment.ident.span().located_at(at.span()));
    }
    path
}

/// The argument's name with the span of its type: the compiler underlines a type that cannot be
/// sent.
pub(super) fn at_type(argument: &Argument) -> Ident {
    name_at(argument, &argument.ty)
}

/// The argument's name with a span at `at`.
pub(super) fn name_at(argument: &Argument, at: &impl Spanned) -> Ident {
    let mut name = argument.name.clone();
    name.set_span(name.span().located_at(at.span()));
    name
}
