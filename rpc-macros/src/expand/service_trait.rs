//! The trait, and its implementation for an `Arc` of an implementation.

use proc_macro2::{Group, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Type, TypeImplTrait, parse_quote};

use super::generics;
use super::names::implementation;
use crate::model::{Method, Parameter, Service};

/// The trait as the user wrote it, except that its futures and streams are `Send`, implementations
/// are `Send + Sync + 'static`, and `#[rpc]` and the attributes of parameters are removed.
pub(super) fn definition(service: &Service) -> TokenStream {
    let Service {
        visibility,
        name,
        generics,
        ..
    } = service;
    let where_clause = &generics.where_clause;
    let attributes = service.attributes.all();
    let supertraits = service.supertraits.iter();
    let methods = service.methods.iter().map(|method| {
        let attributes = method.attributes.all();
        let signature = signature(method);
        let body = match &method.body {
            Some(body) => default_body(method, body),
            None => quote!(;),
        };
        quote!(#(#attributes)* #signature #body)
    });
    quote! {
        #(#attributes)*
        #visibility trait #name #generics: #(#supertraits +)* ::core::marker::Send + ::core::marker::Sync + 'static
        #where_clause
        {
            #(#methods)*
        }
    }
}

/// The default body of a method. What the caller sends counts as used, so the compiler does not
/// advise an underscore, which would change the names of arguments on the wire.
fn default_body(method: &Method, body: &Group) -> TokenStream {
    let is_sent = |parameter: &&Parameter| !parameter.is_context();
    let names = method.parameters.iter().filter(is_sent).map(Parameter::name);
    // The mixed-site span silences a lint that suggests `async fn`, whose future may not be `Send`.
    // An error of the body as a whole is reported at the body.
    let at_body = Span::mixed_site().located_at(body.span());
    let future = method
        .stream
        .is_none()
        .then(|| quote_spanned!(at_body=> async move));
    quote_spanned! {at_body=>
        {
            #(let _ = &#names;)*
            #future #body
        }
    }
}

/// Lets one implementation be shared by several servers.
pub(super) fn implementation_for_arc(service: &Service) -> TokenStream {
    let runtime = &service.runtime;
    let (implementation, service_trait) = (implementation(), generics::service_trait(service));
    let mut generics = generics::of_implementation(service);
    // An `Arc` is an implementation only if it has the user's supertraits.
    let supertraits = &service.supertraits;
    if !supertraits.is_empty() {
        let bound = parse_quote!(Self: #supertraits);
        generics.make_where_clause().predicates.push(bound);
    }
    let (parameters, _, where_clause) = generics.split_for_impl();
    let methods = service.methods.iter().map(|method| {
        let cfg = method.attributes.cfg();
        let signature = signature(method);
        let method_name = &method.name;
        let this = &method.receiver.self_token;
        let parameters = method.parameters.iter().map(Parameter::name);
        quote! {
            #(#cfg)*
            #signature {
                <#implementation as #service_trait>::#method_name(&**#this #(, #parameters)*)
            }
        }
    });
    quote! {
        impl #parameters #service_trait for #runtime::__private::Arc<#implementation> #where_clause {
            #(#methods)*
        }
    }
}

/// The signature, with a future in place of `async`, or with a stream that is `Send`.
fn signature(method: &Method) -> TokenStream {
    let name = &method.name;
    let parameters = method.parameters.iter().map(|parameter| {
        let (name, ty) = (parameter.name(), parameter.ty());
        quote!(#name: #ty)
    });
    let receiver = &method.receiver;
    let output = match &method.stream {
        Some(stream) => stream_type(stream),
        None => future(&method.output),
    };
    quote!(fn #name(#receiver #(, #parameters)*) -> #output)
}

/// The type of a method's stream: it can be polled on any thread.
fn stream_type(stream: &TypeImplTrait) -> TokenStream {
    let at_output = Span::call_site().located_at(stream.span());
    let bounds = stream.bounds.iter();
    quote_spanned!(at_output=> impl #(#bounds +)* ::core::marker::Send)
}

/// The type of a method's future: it can be awaited on any thread. A body that returns another type
/// is reported at the output.
fn future(output: &Type) -> TokenStream {
    let at_output = Span::call_site().located_at(output.span());
    quote_spanned!(at_output=> impl ::core::future::Future<Output = #output> + ::core::marker::Send)
}
