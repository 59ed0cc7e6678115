//! The parameters of a generic service, as the generated types have them.
//!
//! The types have no bounds, except the structs of arguments. The user's bounds are on the `impl`
//! blocks, except those of `Clone` and `Debug`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{GenericParam, Generics, Ident, parse_quote};

use super::names::implementation;
use crate::model::Service;
use crate::syntax::mentions_self;

/// The parameters of the client's type: those of the trait, without bounds.
pub(super) fn of_client(service: &Service) -> Generics {
    let mut generics = with_bounds(service);
    generics.where_clause = None;
    for parameter in generics.type_params_mut() {
        parameter.colon_token = None;
        parameter.bounds.clear();
    }
    generics
}

/// The parameters of the server's type: those of the client's type without defaults, then the
/// implementation.
pub(super) fn of_server(service: &Service) -> Generics {
    let mut generics = of_client(service);
    remove_defaults(&mut generics);
    let implementation = server_parameter(service);
    generics.params.push(parse_quote!(#implementation));
    generics
}

/// Removes the defaults, so that the implementation's parameter, which has none, may follow.
pub(super) fn remove_defaults(generics: &mut Generics) {
    for parameter in &mut generics.params {
        match parameter {
            GenericParam::Type(parameter) => parameter.default = None,
            GenericParam::Const(parameter) => parameter.default = None,
            GenericParam::Lifetime(_) => {}
        }
    }
}

/// The parameters of an `impl` for the server, or for an `Arc` of an implementation: the trait's,
/// then the implementation. The trait's keep their defaults: `split_for_impl` does not print them.
pub(super) fn of_implementation(service: &Service) -> Generics {
    let (implementation, bound) = (implementation(), implementation_bound(service));
    let mut generics = with_bounds(service);
    generics.params.push(parse_quote!(#implementation: #bound));
    generics
}

/// The trait's parameters with their bounds, as `impl` blocks have them. Lifetimes, and bounds that
/// mention `Self`, are left out: only a refused service has them.
pub(super) fn with_bounds(service: &Service) -> Generics {
    let mut generics = service.generics.clone();
    let is_lifetime = |parameter: &GenericParam| matches!(parameter, GenericParam::Lifetime(_));
    let kept = generics.params.iter().filter(|parameter| !is_lifetime(parameter));
    generics.params = kept.cloned().collect();
    remove_bounds_with_self(&mut generics);
    generics
}

pub(super) fn remove_bounds_with_self(generics: &mut Generics) {
    for parameter in generics.type_params_mut() {
        let kept = parameter.bounds.iter().filter(|bound| !mentions_self(bound));
        parameter.bounds = kept.cloned().collect();
    }
    if let Some(clause) = &mut generics.where_clause {
        let predicates = clause.predicates.iter();
        let kept = predicates.filter(|predicate| !mentions_self(predicate));
        clause.predicates = kept.cloned().collect();
    }
}

/// The bound on a type that is served: the trait. The stubs of a refused trait with a bound that
/// mentions `Self` take any type that can be shared between threads.
pub(super) fn implementation_bound(service: &Service) -> TokenStream {
    let Generics {
        params, where_clause, ..
    } = &service.generics;
    if mentions_self(params) || mentions_self(where_clause) {
        quote!(::core::marker::Send + ::core::marker::Sync + 'static)
    } else {
        service_trait(service)
    }
}

/// The parameter of the server's struct that stands for the implementation: `T`, as users see it in
/// their documentation, unless the trait has a parameter `T`.
pub(super) fn server_parameter(service: &Service) -> Ident {
    let t: Ident = parse_quote!(T);
    let mut names = service.generics.params.iter().filter_map(parameter_name);
    if names.any(|name| name.unraw() == t) {
        implementation()
    } else {
        t
    }
}

/// The name of a parameter that is a type or a constant.
pub(super) fn parameter_name(parameter: &GenericParam) -> Option<&Ident> {
    match parameter {
        GenericParam::Type(parameter) => Some(&parameter.ident),
        GenericParam::Const(parameter) => Some(&parameter.ident),
        GenericParam::Lifetime(_) => None,
    }
}

/// The trait, with its parameters. Lifetimes, which only a refused trait has, are `'static`.
pub(super) fn service_trait(service: &Service) -> TokenStream {
    let name = &service.name;
    if service.generics.lifetimes().next().is_none() {
        let (_, arguments, _) = service.generics.split_for_impl();
        return quote!(#name #arguments);
    }
    let arguments = service
        .generics
        .params
        .iter()
        .map(|parameter| match parameter_name(parameter) {
            Some(name) => name.to_token_stream(),
            None => quote!('static),
        });
    quote!(#name<#(#arguments),*>)
}

/// The client's type, with its parameters.
pub(super) fn client(service: &Service) -> TokenStream {
    let (name, generics) = (service.client_name(), with_bounds(service));
    let (_, arguments, _) = generics.split_for_impl();
    quote!(#name #arguments)
}

/// The type of an implementation's server, with its parameters.
pub(super) fn server(service: &Service) -> TokenStream {
    let (name, generics) = (service.server_name(), of_implementation(service));
    let (_, arguments, _) = generics.split_for_impl();
    quote!(#name #arguments)
}

/// The server's type in an expression, for an implementation whose type is inferred.
pub(super) fn server_of_any(service: &Service) -> TokenStream {
    let (name, generics) = (service.server_name(), with_bounds(service));
    let parameters = generics.params.iter().filter_map(parameter_name);
    let parameters: Vec<_> = parameters.collect();
    if parameters.is_empty() {
        quote!(#name)
    } else {
        quote!(#name::<#(#parameters,)* _>)
    }
}

/// The field that mentions the type parameters in a struct without values of these types. `None` if
/// the service has no type parameters.
pub(super) fn marker_field(service: &Service) -> Option<TokenStream> {
    marker_type(service).map(|ty| quote!(generics: #ty,))
}

/// The type of the marker. A pointer to a function is `Send` and `Sync`, whatever its types are.
pub(super) fn marker_type(service: &Service) -> Option<TokenStream> {
    let types: Vec<_> = service
        .generics
        .type_params()
        .map(|parameter| &parameter.ident)
        .collect();
    (!types.is_empty()).then(|| quote!(::core::marker::PhantomData<fn() -> (#(#types,)*)>))
}

/// The value of [`marker_field`], in a struct expression.
pub(super) fn marker_value(service: &Service) -> Option<TokenStream> {
    marker_field(service).map(|_| quote!(generics: ::core::marker::PhantomData,))
}

/// How a struct gets `Clone` and `Debug`. Exactly one of the fields is `Some`.
pub(super) struct CloneAndDebug {
    /// An attribute of the struct, if the service has no parameters.
    pub(super) derive: Option<TokenStream>,
    /// Implementations, if it has: a derive would add bounds to the parameters.
    pub(super) implementations: Option<TokenStream>,
}

/// `Clone` and `Debug` of a struct that has this field and the marker. `bounded` is the type
/// parameter that has to implement them too, if there is one.
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
    let marker = marker_value(service);
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
