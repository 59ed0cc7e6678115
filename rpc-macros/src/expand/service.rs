//! Everything that is generated for a service.

use proc_macro2::TokenStream;
use quote::quote;

use super::{
    alternatives, argument_structs, arguments, checks, client, descriptor, schemas, server, service_trait,
};
use crate::attributes::Attributes;
use crate::model::Service;

/// Expands a service without errors.
pub(crate) fn service(service: &Service) -> TokenStream {
    let service_trait = service_trait::definition(service);
    let client = client::definition(service);
    let server = server::definition(service);

    let exclusion_checks = alternatives::exclusion_checks(service);
    let result_alias_checks = checks::result_alias_checks(service);
    let no_conversion = arguments::import_no_conversion(service);
    let argument_structs = argument_structs::definitions(service);
    let descriptors = descriptor::constants(service);
    let schemas = schemas::function(service);
    let arc = service_trait::implementation_for_arc(service);
    let client_impls = client::implementations(service, &client::methods(service));
    let server_impls = server::implementations(service);

    let implementations = in_unnamed_constant(
        service,
        &quote! {
            #exclusion_checks
            #result_alias_checks
            #no_conversion
            #argument_structs
            #descriptors
            #schemas
            #arc
            #client_impls
            #server_impls
        },
    );
    quote! {
        #service_trait
        #client
        #server

        #implementations
    }
}

/// Puts `impl` blocks, and items that only generated code uses, in a place whose names no other
/// code sees.
pub(super) fn in_unnamed_constant(service: &Service, items: &TokenStream) -> TokenStream {
    let cfg = service.attributes.cfg();
    let lints = service.attributes.lints();
    let deprecated = is_any_deprecated(service).then(|| quote!(deprecated,));
    quote! {
        #(#cfg)*
        #(#lints)*
        // Lints report the trait; they need not report the code generated from it again.
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
            #items
        };
    }
}

/// Whether the trait or a method is deprecated, or the user allows the use of something deprecated
/// there. Only then is the lint allowed: the user may have forbidden it.
fn is_any_deprecated(service: &Service) -> bool {
    let methods = service.methods.iter().map(|method| &method.attributes);
    let mut all = methods.chain([&service.attributes]);
    all.any(Attributes::mentions_deprecation)
}
