//! Methods with `#[cfg(..)]`: two may have the same wire name, or both be the default method, if
//! only one of them is compiled.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;

use crate::model::{Method, Service};

/// Emits a `compile_error!` for each pair of methods that conflict. It has the conditions of both,
/// so the compiler reports the pair only if it compiles both methods.
pub(super) fn exclusion_checks(service: &Service) -> TokenStream {
    let methods = service.methods.iter().enumerate();
    methods
        .flat_map(|(index, method)| {
            let earlier = service.methods[..index].iter();
            earlier.flat_map(move |other| both_compiled_error(other, method))
        })
        .collect()
}

/// The `compile_error!` for two methods, or `None` if they do not conflict. Two that do both have
/// conditions: the parser has refused all other conflicts.
fn both_compiled_error(one: &Method, other: &Method) -> Option<TokenStream> {
    let (span, reason) = conflict(one, other)?;
    let message = format!(
        "`{}` and `{}` are both compiled here, and {reason}",
        one.name, other.name
    );
    let (one, other) = (one.attributes.cfg(), other.attributes.cfg());
    Some(quote_spanned! {span=>
        #(#one)*
        #(#other)*
        ::core::compile_error!(#message);
    })
}

/// Why two methods conflict, and where to report it, or `None` if they do not.
fn conflict(one: &Method, other: &Method) -> Option<(Span, String)> {
    let wire_name = &other.wire_name;
    if one.wire_name.value() == wire_name.value() {
        let name = wire_name.value();
        let advice = "make their conditions exclude each other, or give one of them a different name with `#[rpc(name = \"..\")]`";
        let reason = format!("both have the wire name `{name}`; {advice}");
        return Some((wire_name.span(), reason));
    }
    if one.is_default && other.is_default {
        let advice = "make their conditions exclude each other, or remove `default` from one";
        let reason = format!("both are the default method; {advice}");
        return Some((other.name.span(), reason));
    }
    None
}
