//! The function that gives the runtime the types of arguments, items, results and errors for JSON
//! Schemas.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::Ident;
use syn::spanned::Spanned;

use super::lifetimes::with_lifetime;
use super::spans::located_at;
use crate::model::{Argument, Method, Service, Shape};

/// The function, and the check that the runtime has the feature for it. `None` if the user asks for
/// no schemas.
pub(super) fn function(service: &Service) -> Option<TokenStream> {
    let option = service.schema.as_ref()?;
    let runtime = &service.runtime;
    let function = function_name();
    let (parameters, _, where_clause) = service.generics.split_for_impl();
    let methods = service
        .methods
        .iter()
        .filter_map(|method| of_method(service, method));
    let located = located_at(runtime, option);
    let check = quote_spanned!(option.span()=> #located::__private::needs_feature_schema!(););
    Some(quote! {
        #check

        fn #function #parameters (__schemas: &mut #runtime::__private::Schemas) #where_clause {
            use #runtime::__private::SchemaOfOther as _;
            // Conditions may remove all methods, and the parameter would be unused.
            let _ = &__schemas;
            #(#methods)*
        }
    })
}

/// The path of the function with the service's parameters, or `None` if the user asks for no
/// schemas.
pub(super) fn function_path(service: &Service) -> Option<TokenStream> {
    service.schema.as_ref()?;
    let function = function_name();
    let (_, arguments, _) = service.generics.split_for_impl();
    let arguments = arguments.as_turbofish();
    Some(quote!(#function #arguments))
}

fn function_name() -> Ident {
    Ident::new("__schemas_of_service", Span::mixed_site())
}

/// The variable to which the schemas of a method are added. Its span is always this macro's: with
/// the span of a type from another macro, it would be another variable.
fn variable() -> Ident {
    Ident::new("__method", Span::mixed_site())
}

/// The code that adds the schemas of a method, or `None` if it has none.
fn of_method(service: &Service, method: &Method) -> Option<TokenStream> {
    let (runtime, variable) = (&service.runtime, variable());
    let cfg = method.attributes.cfg();
    let wire_name = &method.wire_name;
    let arguments = method
        .arguments()
        .filter_map(|argument| of_argument(service, argument));
    let parts = arguments.chain(of_incoming(service, method));
    let parts: Vec<_> = parts.chain(of_answer(service, method)).collect();
    (!parts.is_empty()).then(|| {
        quote! {
            #(#cfg)*
            {
                let mut #variable = #runtime::__private::Schemas::method(__schemas, #wire_name);
                #(#parts)*
            }
        }
    })
}

/// The code that adds the argument's schema, or `None` if functions of the user write or read the
/// argument: the macro does not know the type that they write or read.
fn of_argument(service: &Service, argument: &Argument) -> Option<TokenStream> {
    let Argument {
        ty,
        shape,
        wire_name,
        serde,
        ..
    } = argument;
    if serde.has_writer || serde.has_reader {
        return None;
    }
    let (runtime, variable) = (located_at(&service.runtime, ty), variable());
    let with_static = |ty| with_lifetime(ty, "'static").into_token_stream();
    let described = match shape {
        Shape::Bytes => {
            return Some(quote!(#runtime::__private::MethodSchemas::bytes(&mut #variable, #wire_name);));
        }
        Shape::ByteVec | Shape::CowBytes { .. } => {
            let ty = with_static(ty);
            return Some(quote_spanned! {ty.span()=>
                <#runtime::__private::SchemaOf<#ty>>::argument(&mut #variable, #wire_name);
            });
        }
        Shape::Str => quote!(::core::primitive::str),
        Shape::Slice(element) => {
            let element_type = with_static(element);
            quote_spanned!(element.span()=> [#element_type])
        }
        Shape::Reference(ty) => with_static(ty),
        Shape::CowStr | Shape::Owned => with_static(ty),
    };
    Some(quote_spanned! {ty.span()=>
        #runtime::__private::MethodSchemas::argument::<#described>(&mut #variable, #wire_name);
    })
}

fn of_incoming(service: &Service, method: &Method) -> Option<TokenStream> {
    let (_, item) = method.incoming()?;
    let (runtime, variable) = (located_at(&service.runtime, item), variable());
    Some(quote_spanned! {item.span()=>
        #runtime::__private::MethodSchemas::incoming::<#item>(&mut #variable);
    })
}

fn of_answer(service: &Service, method: &Method) -> Option<TokenStream> {
    if !method.has_reply() {
        return None;
    }
    let output = &method.output;
    let (runtime, variable) = (located_at(&service.runtime, output), variable());
    if !method.is_fallible {
        return Some(quote_spanned! {output.span()=>
            #runtime::__private::MethodSchemas::result::<#output>(&mut #variable);
        });
    }
    Some(quote_spanned! {output.span()=>
        #runtime::__private::MethodSchemas::result::<<#output as #runtime::ResultType>::Ok>(&mut #variable);
        #runtime::__private::MethodSchemas::error::<<#output as #runtime::ResultType>::Err>(&mut #variable);
    })
}
