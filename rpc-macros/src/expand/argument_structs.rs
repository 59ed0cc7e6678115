//! The structs of arguments for a method whose parameters have `#[serde(..)]` attributes. Serde
//! derives how they are written and read.
//!
//! Such a method has two: the client writes the one with the types that its own method takes, and
//! the server reads the one with owned types.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Lifetime, parse_quote};

use super::lifetimes::{has_anonymous_lifetime, with_lifetime};
use super::names::{argument_marker, received_struct, sent_struct};
use super::{generics, serde_functions};
use crate::model::{Argument, Method, Service, Shape};

/// The name by which the runtime distinguishes a method's arguments from a struct of the user.
const ARGUMENTS: &str = "$rpc_runtime::arguments";

/// The structs of all methods with `#[serde(..)]` attributes.
pub(super) fn definitions(service: &Service) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let derived: Vec<_> = service
        .methods
        .iter()
        .filter(|method| method.has_derived_arguments())
        .map(|method| structs_of_method(service, method))
        .collect();
    // Attributes of serde need short names for these modules: serde takes paths as strings, and a
    // string cannot contain the `$crate` that may be in the path of the runtime.
    (!derived.is_empty()).then(|| {
        quote! {
            use #runtime::__private::{bytes as __bytes, serde as __serde};
            #(#derived)*
        }
    })
}

/// The two structs of a method, and the forwarders to the user's serde functions that the derived
/// code of the first struct calls.
fn structs_of_method(service: &Service, method: &Method) -> TokenStream {
    let (sent_struct, received_struct) = (sent_struct(method), received_struct(method));
    let cfg = method.attributes.cfg();
    let sent_fields = method
        .arguments()
        .map(|argument| sent_field(service, method, argument));
    let received_fields = method
        .arguments()
        .map(|argument| received_field(service, argument));
    let functions: Vec<_> = method.arguments().flat_map(serde_functions::forwarders).collect();
    let generics = &service.generics;
    let where_clause = &generics.where_clause;
    let mut sent_generics = generics.clone();
    if method.arguments().any(has_sent_lifetime) {
        sent_generics.params.insert(0, parse_quote!('sent));
    }
    let functions = (!functions.is_empty()).then(|| {
        let (parameters, generic_arguments, _) = sent_generics.split_for_impl();
        quote! {
            #(#cfg)*
            impl #parameters #sent_struct #generic_arguments #where_clause {
                #(#functions)*
            }
        }
    });
    // An empty `bound`, because serde would add bounds to the user's otherwise.
    let bound = (!generics.params.is_empty()).then(|| quote!(, bound = ""));
    let marker = generics::marker_type(service).map(|ty| {
        let name = argument_marker(method);
        quote!(#[serde(skip)] #name: #ty,)
    });
    quote! {
        #(#cfg)*
        #[derive(__serde::Serialize)]
        #[serde(crate = "__serde", rename = #ARGUMENTS #bound)]
        struct #sent_struct #sent_generics #where_clause {
            #(#sent_fields,)*
            #marker
        }
        #(#cfg)*
        #[derive(__serde::Deserialize)]
        #[serde(crate = "__serde", rename = #ARGUMENTS #bound)]
        struct #received_struct #generics #where_clause {
            #(#received_fields,)*
            #marker
        }
        #functions
    }
}

/// A field of the struct to write.
fn sent_field(service: &Service, method: &Method, argument: &Argument) -> TokenStream {
    let Argument { name, serde, .. } = argument;
    let attributes = serde_functions::attributes(service, method, argument);
    let bytes = (is_bytes(argument) && !serde.has_writer)
        .then(|| quote!(#[serde(serialize_with = "__bytes::serialize")]));
    let ty = sent_type(service, argument);
    quote!(#(#attributes)* #bytes #name: #ty)
}

/// A field of the struct to read.
fn received_field(service: &Service, argument: &Argument) -> TokenStream {
    let Argument { name, serde, .. } = argument;
    let attributes = &serde.attributes;
    let bytes = (is_bytes(argument) && !serde.has_reader)
        .then(|| quote!(#[serde(deserialize_with = "__bytes::deserialize")]));
    let ty = owned_type(service, argument);
    quote!(#(#attributes)* #bytes #name: #ty)
}

/// The type of a field in the struct to write: what the client's method takes, with the lifetime
/// `'sent` for its borrows. A `Cow` is written anew as the standard library's, because `Cow<str>`
/// has no lifetime that could be replaced.
fn sent_type(service: &Service, argument: &Argument) -> TokenStream {
    match &argument.shape {
        Shape::Str => quote!(&'sent ::core::primitive::str),
        Shape::Bytes => quote!(&'sent [::core::primitive::u8]),
        Shape::Slice(element) => {
            let element = with_lifetime(element, "'sent");
            quote!(&'sent [#element])
        }
        Shape::Reference(ty) => {
            let ty = with_lifetime(ty, "'sent");
            quote!(&'sent #ty)
        }
        Shape::CowStr | Shape::CowBytes { .. } => cow(service, argument, "'sent"),
        Shape::ByteVec | Shape::Owned => with_lifetime(&argument.ty, "'sent").into_token_stream(),
    }
}

/// The type of a field in the struct to read.
fn owned_type(service: &Service, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    let ty = match &argument.shape {
        Shape::Str => return quote!(#runtime::__private::String),
        Shape::Bytes => return quote!(#runtime::__private::Vec<::core::primitive::u8>),
        Shape::Slice(element) => {
            let element = with_lifetime(element, "'static");
            return quote!(#runtime::__private::Vec<#element>);
        }
        Shape::CowStr | Shape::CowBytes { .. } => return cow(service, argument, "'static"),
        Shape::Reference(ty) => ty,
        Shape::ByteVec | Shape::Owned => &argument.ty,
    };
    with_lifetime(ty, "'static").into_token_stream()
}

/// The standard library's `Cow` that the argument has to be here, with this lifetime.
fn cow(service: &Service, argument: &Argument, lifetime: &str) -> TokenStream {
    let runtime = &service.runtime;
    let lifetime = Lifetime::new(lifetime, Span::mixed_site());
    let borrowed = match argument.shape {
        Shape::CowStr => quote!(::core::primitive::str),
        _ => quote!([::core::primitive::u8]),
    };
    quote!(#runtime::__private::Cow<#lifetime, #borrowed>)
}

/// Whether the type of the field in the struct to write has the lifetime `'sent`.
fn has_sent_lifetime(argument: &Argument) -> bool {
    match argument.shape {
        Shape::ByteVec | Shape::Owned => has_anonymous_lifetime(&argument.ty),
        _ => true,
    }
}

/// Whether the argument is sent as bytes, unless a function of the user writes it. Serde itself
/// would write a list of numbers.
fn is_bytes(argument: &Argument) -> bool {
    matches!(
        argument.shape,
        Shape::Bytes | Shape::CowBytes { .. } | Shape::ByteVec
    )
}
