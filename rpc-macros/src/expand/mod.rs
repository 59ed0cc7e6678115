//! From [`Service`] to code.
//!
//! Generated code assumes nothing about where it lands: every path is absolute or a name the user wrote, and what is
//! only its own lives in an unnamed constant. Bindings are hygienic, so that no argument's name can meet them; and as a binding
//! of a constant's name would be a pattern, each begins with two underscores, as all names here that share a scope with the user's.
//! Methods are called by paths where one of the same name that takes its receiver by value, of a trait for all types, would be
//! found first.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Ident, Type};

use crate::attributes::Attributes;
use crate::model::{Method, Service};

mod alternatives;
mod arguments;
mod checks;
mod client;
mod descriptor;
mod generics;
mod schemas;
mod server;
mod service_trait;
mod writers;

/// All that is generated for a service.
pub(crate) fn service(service: &Service) -> TokenStream {
    let service_trait = service_trait::definition(service);
    let client = client::definition(service);
    let server = server::definition(service);

    let alternatives = alternatives::are_exclusive(service);
    let checks = checks::of_types(service);
    let names = arguments::of_names(service);
    let argument_structs = arguments::definitions(service);
    let descriptors = descriptor::constants(service);
    let schemas = schemas::function(service);
    let arc = service_trait::implementation_for_arc(service);
    let client_impls = client::implementations(service);
    let server_impls = server::implementations(service);

    let cfg = service.attributes.cfg();
    let lints = service.attributes.lints();
    let deprecated = is_any_deprecated(service).then(|| quote!(deprecated,));
    quote! {
        #service_trait
        #client
        #server

        #(#cfg)*
        #(#lints)*
        // The user is told about the trait, and need not be told again about what follows from it.
        #[allow(
            dead_code,
            #deprecated
            non_camel_case_types,
            non_snake_case,
            non_upper_case_globals,
            unreachable_patterns,
            unused_imports,
            clippy::all,
            clippy::pedantic
        )]
        const _: () = {
            #alternatives
            #checks
            #names
            #argument_structs
            #descriptors
            #schemas
            #arc
            #client_impls
            #server_impls
        };
    }
}

/// Whether generated code has to use something deprecated, or the user allows that. A lint that is not named here may be forbidden.
fn is_any_deprecated(service: &Service) -> bool {
    let methods = service.methods.iter().map(|method| &method.attributes);
    let mut all = methods.chain([&service.attributes]);
    all.any(Attributes::is_about_deprecation)
}

/// The type parameter that stands for a user's implementation. Types named by the user share its scope.
fn implementation() -> Ident {
    Ident::new("__Implementation", Span::mixed_site())
}

/// The reference to what describes the service. Schemas depend on the service's parameters, as no constant of [`descriptors`] can.
fn service_descriptor(service: &Service) -> TokenStream {
    let descriptors = descriptors();
    match schemas::of_parameters(service) {
        Some(schemas) => quote!(const { &#descriptors::service.schemas(#schemas) }),
        None => quote!(&#descriptors::service),
    }
}

/// The constant that describes a method.
fn method_constant(method: &Method) -> TokenStream {
    let (descriptors, name) = (descriptors(), method_constant_name(method));
    quote!(#descriptors::#name)
}

fn method_constant_name(method: &Method) -> Ident {
    format_ident!("method_{}", method.name.unraw())
}

/// The type that has the descriptors. Constants beside it would turn arguments of their name into patterns.
fn descriptors() -> Ident {
    Ident::new("__Descriptors", Span::mixed_site())
}

/// The type of a method's future: it can be awaited on any thread.
fn future(output: &Type) -> TokenStream {
    quote!(impl ::core::future::Future<Output = #output> + ::core::marker::Send)
}
