//! Names of what is generated, each in one place.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::Ident;
use syn::ext::IdentExt;

use crate::model::Method;

/// The type parameter that stands for the implementation. It shares its scope with types that the
/// user names.
pub(super) fn implementation() -> Ident {
    Ident::new("__Implementation", Span::mixed_site())
}

/// The type that holds the descriptors as associated constants. If they were free constants, an
/// argument with the name of one would be a pattern that matches it.
pub(super) fn descriptors() -> Ident {
    Ident::new("__Descriptors", Span::mixed_site())
}

/// The constant that describes a method, by its path.
pub(super) fn method_constant(method: &Method) -> TokenStream {
    let (descriptors, name) = (descriptors(), method_constant_name(method));
    quote!(#descriptors::#name)
}

pub(super) fn method_constant_name(method: &Method) -> Ident {
    format_ident!("method_{}", method.name.unraw())
}

/// The struct that the client writes for a method.
pub(super) fn sent_struct(method: &Method) -> Ident {
    format_ident!("__sent_{}", method.name.unraw(), span = Span::mixed_site())
}

/// The struct that the server reads for a method.
pub(super) fn received_struct(method: &Method) -> Ident {
    format_ident!("__received_{}", method.name.unraw(), span = Span::mixed_site())
}

/// The field of [`marker_type`](super::generics::marker_type) in a struct of arguments. Its name
/// contains those of all arguments and more, so it differs from each of them.
pub(super) fn argument_marker(method: &Method) -> Ident {
    let arguments = method.arguments();
    let names: Vec<_> = arguments
        .map(|argument| argument.name.unraw().to_string())
        .collect();
    format_ident!("generics_{}", names.join("_"))
}
