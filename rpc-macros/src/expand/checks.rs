//! Checks of types that only the compiler can make: what can travel, and what an alias stands for.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{GenericParam, Ident, Type};

use crate::model::{Argument, Method, Service, Shape};

const MESSAGE: &str = "this type is a `Result` by another name, and only one named `Result` is taken for one: the caller would get the \
    method's error as a value; return `Result<..>`, or name the alias `Result` and write `module::Result<..>`";

/// All checks of a service's types.
pub(super) fn of_types(service: &Service) -> TokenStream {
    let arguments = arguments_travel(service);
    let outputs = outputs_are_no_results(service);
    quote!(#arguments #outputs)
}

/// Has the compiler report an argument that cannot be read where its type stands: where it is read, they are all one tuple.
fn arguments_travel(service: &Service) -> TokenStream {
    let (parameters, _, where_clause) = service.generics.split_for_impl();
    let checks = service.methods.iter().map(|method| {
        let cfg = method.attributes.cfg();
        let checks = method
            .arguments()
            .filter_map(|argument| argument_travels(service, argument));
        quote!(#(#cfg)* { #(#checks)* })
    });
    quote! {
        fn __arguments_travel #parameters () #where_clause {
            #(#checks)*
        }
    }
}

fn argument_travels(service: &Service, argument: &Argument) -> Option<TokenStream> {
    let runtime = &service.runtime;
    if argument.serde.reads {
        // The user's own function reads it.
        return None;
    }
    let ty = match &argument.shape {
        Shape::Str | Shape::Bytes | Shape::CowStr | Shape::CowBytes | Shape::ByteVec => return None,
        Shape::Slice(ty) | Shape::Reference(ty) => ty,
        Shape::Owned => &argument.ty,
    };
    Some(quote_spanned!(ty.span()=> #runtime::__private::argument::<#ty>();))
}

/// Refuses return types that are a `Result` under another name. A type that mentions parameters cannot be looked at
/// before they are known.
fn outputs_are_no_results(service: &Service) -> TokenStream {
    let parameters: Vec<_> = service
        .generics
        .params
        .iter()
        .filter_map(parameter_name)
        .collect();
    let is_checked =
        |method: &&Method| may_be_result(method) && !mentions(method.output.to_token_stream(), &parameters);
    let methods = service.methods.iter().filter(is_checked);
    methods
        .map(|method| output_is_no_result(service, method))
        .collect()
}

fn parameter_name(parameter: &GenericParam) -> Option<&Ident> {
    match parameter {
        GenericParam::Type(parameter) => Some(&parameter.ident),
        GenericParam::Const(parameter) => Some(&parameter.ident),
        _ => None,
    }
}

fn mentions(tokens: TokenStream, names: &[&Ident]) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => names.iter().any(|name| **name == ident),
        TokenTree::Group(group) => mentions(group.stream(), names),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn may_be_result(method: &Method) -> bool {
    !method.is_fallible && matches!(method.output, Type::Path(_) | Type::Group(_) | Type::Paren(_))
}

fn output_is_no_result(service: &Service, method: &Method) -> TokenStream {
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
