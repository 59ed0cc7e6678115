//! The type parameters of a generic service, as the generated types have them.
//!
//! The types themselves ask nothing of their parameters; the user's bounds stand where the trait is used.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{GenericParam, Generics, Ident, parse_quote};

use super::names::implementation;
use crate::model::Service;

/// The parameters of the client: those of the trait.
pub(super) fn of_client(service: &Service) -> Generics {
    let mut generics = service.generics.clone();
    generics.where_clause = None;
    for parameter in generics.type_params_mut() {
        parameter.colon_token = None;
        parameter.bounds.clear();
    }
    generics
}

/// The parameters of the server: those of the trait, and the implementation last.
pub(super) fn of_server(service: &Service) -> Generics {
    let mut generics = of_client(service);
    for parameter in &mut generics.params {
        match parameter {
            GenericParam::Type(parameter) => parameter.default = None,
            GenericParam::Const(parameter) => parameter.default = None,
            GenericParam::Lifetime(_) => {}
        }
    }
    let implementation = server_parameter(service);
    generics.params.push(parse_quote!(#implementation));
    generics
}

/// The parameters of an `impl` for any implementation of the trait.
pub(super) fn of_implementation(service: &Service) -> Generics {
    let (implementation, service_trait) = (implementation(), service_trait(service));
    let mut generics = service.generics.clone();
    generics
        .params
        .push(parse_quote!(#implementation: #service_trait));
    generics
}

/// What the server's type calls the implementation: `T`, unless that is a parameter of the user's. It shares its scope with
/// them alone, for the type has no bounds.
pub(super) fn server_parameter(service: &Service) -> Ident {
    let t = parse_quote!(T);
    let is_taken = service.generics.params.iter().any(|parameter| match parameter {
        GenericParam::Type(parameter) => parameter.ident == t,
        GenericParam::Const(parameter) => parameter.ident == t,
        _ => false,
    });
    if is_taken { implementation() } else { t }
}

/// The trait, with its parameters.
pub(super) fn service_trait(service: &Service) -> TokenStream {
    let (name, (_, arguments, _)) = (&service.name, service.generics.split_for_impl());
    quote!(#name #arguments)
}

/// The client's type, with its parameters.
pub(super) fn client(service: &Service) -> TokenStream {
    let (name, (_, arguments, _)) = (service.client_name(), service.generics.split_for_impl());
    quote!(#name #arguments)
}

/// The type of an implementation's server, with its parameters.
pub(super) fn server(service: &Service) -> TokenStream {
    let (name, generics) = (service.server_name(), of_implementation(service));
    let (_, arguments, _) = generics.split_for_impl();
    quote!(#name #arguments)
}

/// The field that mentions the type parameters, in a struct that has no value of them and owns none.
pub(super) fn marker_field(service: &Service) -> Option<TokenStream> {
    marker_type(service).map(|ty| quote!(generics: #ty,))
}

pub(super) fn marker_type(service: &Service) -> Option<TokenStream> {
    let types: Vec<_> = service
        .generics
        .type_params()
        .map(|parameter| &parameter.ident)
        .collect();
    (!types.is_empty()).then(|| quote!(::core::marker::PhantomData<fn() -> (#(#types,)*)>))
}

/// The value of [`marker_field`].
pub(super) fn marker(service: &Service) -> Option<TokenStream> {
    marker_field(service).map(|_| quote!(generics: ::core::marker::PhantomData,))
}

/// How a struct gets `Clone` and `Debug`.
pub(super) struct CloneAndDebug {
    /// An attribute of the struct.
    pub(super) derive: Option<TokenStream>,
    /// Implementations beside it: where a derive would ask for the same of each of the user's parameters.
    pub(super) implementations: Option<TokenStream>,
}

/// `Clone` and `Debug` of a struct of this one field and the marker. `bounded` is the parameter that has to have them.
pub(super) fn clone_and_debug(
    service: &Service,
    name: &Ident,
    generics: &Generics,
    field: &Ident,
    bounded: Option<&Ident>,
) -> CloneAndDebug {
    if service.generics.params.is_empty() {
        return CloneAndDebug {
            derive: Some(quote!(#[derive(::core::clone::Clone, ::core::fmt::Debug)])),
            implementations: None,
        };
    }
    let (parameters, arguments, _) = generics.split_for_impl();
    let (struct_name, field_name) = (name.to_string(), field.to_string());
    let marker = marker(service);
    let bounded: Vec<_> = bounded.into_iter().collect();
    let implementations = quote! {
        impl #parameters ::core::clone::Clone for #name #arguments
        where
            #(#bounded: ::core::clone::Clone,)*
        {
            fn clone(&self) -> Self {
                Self { #field: ::core::clone::Clone::clone(&self.#field), #marker }
            }
        }
        impl #parameters ::core::fmt::Debug for #name #arguments
        where
            #(#bounded: ::core::fmt::Debug,)*
        {
            fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::DebugStruct::field(&mut __f.debug_struct(#struct_name), #field_name, &self.#field).finish()
            }
        }
    };
    CloneAndDebug {
        derive: None,
        implementations: Some(implementations),
    }
}
