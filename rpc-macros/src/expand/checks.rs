//! Checks that need type information, which only the compiler has: whether an alias is a `Result`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, Type};

use super::generics::parameter_name;
use crate::model::{Method, Service};
use crate::syntax::mentions;

const MESSAGE: &str = "this type is a `Result` under another name, so the caller would get the \
    method's error as a value; return `Result<..>`, or name the alias `Result` and write `module::Result<..>`";

/// Makes the compiler refuse a `Result` under another name as what a method returns, or as the item
/// of its stream. A type that mentions parameters of the trait is not checked, because they are not
/// known yet.
pub(super) fn result_alias_checks(service: &Service) -> TokenStream {
    let parameters: Vec<_> = service
        .generics
        .params
        .iter()
        .filter_map(parameter_name)
        .collect();
    let is_checked = |method: &&Method| {
        let is_mentioned = |name: &&Ident| mentions(method.output.to_token_stream(), *name);
        may_be_result_alias(method) && !parameters.iter().any(is_mentioned)
    };
    let methods = service.methods.iter().filter(is_checked);
    methods.map(|method| assert_not_result(service, method)).collect()
}

/// Whether an output that is not spelled `Result` may be one: it is a path, or a macro that expands
/// to a type. Parentheses and invisible groups may be around it.
fn may_be_result_alias(method: &Method) -> bool {
    let may_name_result = matches!(
        method.output,
        Type::Path(_) | Type::Macro(_) | Type::Group(_) | Type::Paren(_)
    );
    !method.is_fallible && may_name_result
}

fn assert_not_result(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    let output = &method.output;
    let cfg = method.attributes.cfg();
    quote_spanned! {Span::mixed_site().located_at(output.span())=>
        #(#cfg)*
        const _: () = {
            use #runtime::__private::NoResult as _;
            ::core::assert!(!<#runtime::__private::IsResult<#output>>::IS_RESULT, #MESSAGE);
        };
    }
}
