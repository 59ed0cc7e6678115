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
            earlier.flat_map(move |earlier| both_compiled_error(earlier, method))
        })
        .collect()
}

/// The `compile_error!` for two methods, or `None` if they do not conflict. If they do, both have
/// conditions: the parser has refused all other conflicts.
fn both_compiled_error(earlier: &Method, later: &Method) -> Option<TokenStream> {
    let (span, reason) = conflict(earlier, later)?;
    let message = format!(
        "`{}` and `{}` are both compiled here, and {reason}",
        earlier.name, later.name
    );
    let (earlier_cfg, later_cfg) = (earlier.attributes.cfg(), later.attributes.cfg());
    Some(quote_spanned! {span=>
        #(#earlier_cfg)*
        #(#later_cfg)*
        ::core::compile_error!(#message);
    })
}

/// Why two methods conflict, and where to report it, or `None` if they do not.
fn conflict(earlier: &Method, later: &Method) -> Option<(Span, String)> {
    let wire_name = &later.wire_name;
    if earlier.wire_name.value() == wire_name.value() {
        let name = wire_name.value();
        let advice = "make their conditions exclude each other, or give one of them a different name with `#[rpc(name = \"..\")]`";
        let reason = format!("both have the wire name `{name}`; {advice}");
        return Some((wire_name.span(), reason));
    }
    if earlier.is_default && later.is_default {
        let advice = "make their conditions exclude each other, or remove `default` from one";
        let reason = format!("both are the default method; {advice}");
        return Some((later.name.span(), reason));
    }
    None
}
