//! Checks of return types that only the compiler can make: what an alias stands for.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::Type;
use syn::spanned::Spanned;

use crate::model::{Method, Service};

const MESSAGE: &str = "this type is a `Result` by another name, and only one named `Result` is taken for one: the caller would get the \
    method's error as a value; return `Result<..>`, or name the alias `Result` and write `module::Result<..>`";

/// Refuses return types that are a `Result` under another name. A type that mentions parameters cannot be looked at
/// before they are known.
pub(super) fn checks(service: &Service) -> TokenStream {
    let is_checked = |method: &&Method| service.generics.params.is_empty() && may_be_result(method);
    let methods = service.methods.iter().filter(is_checked);
    methods.map(|method| check(service, method)).collect()
}

fn may_be_result(method: &Method) -> bool {
    !method.is_fallible && matches!(method.output, Type::Path(_) | Type::Group(_) | Type::Paren(_))
}

fn check(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    let output = &method.output;
    let cfg = method.attributes.cfg();
    quote_spanned! {Span::mixed_site().located_at(output.span())=>
        #(#cfg)*
        const _: () = {
            use #runtime::__private::NoResult as _;
            ::core::assert!(!<#runtime::__private::Probe<#output>>::IS_RESULT, #MESSAGE);
        };
    }
}
