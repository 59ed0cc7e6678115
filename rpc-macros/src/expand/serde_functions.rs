//! Calls the user's `#[serde(..)]` functions that write an argument of type `&T`, or decide whether
//! to skip it.
//!
//! Serde passes a reference to the field, which is a `&&T` here. A generic function that takes any
//! `&T` would be called with the wrong type. So the struct to write has a forwarder for each: a
//! function that takes the `&&T`, and calls the user's function with the `&T`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, ExprPath, Ident, Lit, LitStr, Meta, Token, parse_quote};

use super::lifetimes::with_lifetime;
use super::names::sent_struct;
use crate::attributes::bare_expr;
use crate::model::{Argument, Method, Service, Shape};

/// What a function of the user does.
#[derive(Clone, Copy)]
enum Purpose {
    Write,
    Skip,
}

impl Purpose {
    /// Serde's option that names such a function.
    fn option(self) -> Ident {
        match self {
            Self::Write => format_ident!("serialize_with"),
            Self::Skip => format_ident!("skip_serializing_if"),
        }
    }

    /// The name of the forwarder that calls it.
    fn forwarder(self, argument: &Argument) -> Ident {
        let name = argument.name.unraw();
        match self {
            Self::Write => format_ident!("write_{name}"),
            Self::Skip => format_ident!("skip_{name}"),
        }
    }
}

/// An argument's attributes for its field in the struct to write.
pub(super) fn attributes(service: &Service, method: &Method, argument: &Argument) -> Vec<Attribute> {
    let written = &argument.serde.attributes;
    if !matches!(argument.shape, Shape::Reference(_)) {
        return written.clone();
    }
    let replaced = |attribute: &Attribute| match settings(attribute) {
        Some(settings) => {
            let settings = settings
                .iter()
                .map(|setting| with_forwarder(service, method, argument, setting));
            parse_quote!(#[serde(#(#settings),*)])
        }
        // Serde reports what is wrong with it.
        None => attribute.clone(),
    };
    written.iter().map(replaced).collect()
}

/// The setting with the forwarder in place of the user's function. A setting that names no function
/// to forward to stays as it is.
fn with_forwarder(service: &Service, method: &Method, argument: &Argument, setting: &Meta) -> TokenStream {
    let Some((purpose, _)) = user_function(setting) else {
        return setting.to_token_stream();
    };
    let sent_struct = sent_struct(method);
    let (_, generic_arguments, _) = service.generics.split_for_impl();
    let turbofish = generic_arguments.as_turbofish();
    let forwarder = purpose.forwarder(argument);
    let path = quote!(#sent_struct #turbofish::#forwarder).to_string();
    let path = LitStr::new(&path, Span::mixed_site());
    let option = purpose.option();
    quote!(#option = #path)
}

/// The forwarders for an argument.
pub(super) fn forwarders(argument: &Argument) -> Vec<TokenStream> {
    let Shape::Reference(ty) = &argument.shape else {
        return Vec::new();
    };
    let ty = with_lifetime(ty, "'sent");
    let settings = argument.serde.attributes.iter().filter_map(settings).flatten();
    let functions = settings.filter_map(|setting| user_function(&setting));
    functions
        .map(|(purpose, path)| {
            let forwarder = purpose.forwarder(argument);
            match purpose {
                Purpose::Write => quote! {
                    fn #forwarder<__S: __serde::Serializer>(
                        __argument: &&#ty,
                        __serializer: __S,
                    ) -> ::core::result::Result<__S::Ok, __S::Error> {
                        #path(*__argument, __serializer)
                    }
                },
                Purpose::Skip => quote! {
                    fn #forwarder(__argument: &&#ty) -> ::core::primitive::bool {
                        #path(*__argument)
                    }
                },
            }
        })
        .collect()
}

/// The settings in a `#[serde(..)]`, or `None` if it is malformed.
fn settings(attribute: &Attribute) -> Option<Punctuated<Meta, Token![,]>> {
    attribute.parse_args_with(Punctuated::parse_terminated).ok()
}

/// The user's function that a setting names, if it writes the argument or decides whether to skip
/// it. Of the module that `with` names, it is `serialize`: the struct to write is never read.
fn user_function(setting: &Meta) -> Option<(Purpose, ExprPath)> {
    let Meta::NameValue(setting) = setting else {
        return None;
    };
    let Expr::Lit(ExprLit {
        lit: Lit::Str(path), ..
    }) = bare_expr(&setting.value)
    else {
        return None;
    };
    let path: ExprPath = path.parse().ok()?;
    match setting.path.get_ident()?.to_string().as_str() {
        "with" => Some((Purpose::Write, parse_quote!(#path::serialize))),
        "serialize_with" => Some((Purpose::Write, path)),
        "skip_serializing_if" => Some((Purpose::Skip, path)),
        _ => None,
    }
}
