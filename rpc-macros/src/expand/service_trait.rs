//! The trait itself, and the implementation that an `Arc` of an implementation is.

use proc_macro2::TokenStream;
use quote::quote;

use super::{future, implementation};
use crate::model::{Method, Parameter, Service};

/// The trait, as the user wrote it but for the futures, which are `Send`.
pub(super) fn definition(service: &Service) -> TokenStream {
    let Service { visibility, name, .. } = service;
    let attributes = service.attributes.all();
    let supertraits = service.supertraits.iter();
    let methods = service.methods.iter().map(|method| {
        let attributes = method.attributes.all();
        let signature = signature(method);
        quote!(#(#attributes)* #signature;)
    });
    quote! {
        #(#attributes)*
        #visibility trait #name: #(#supertraits +)* ::core::marker::Send + ::core::marker::Sync + 'static {
            #(#methods)*
        }
    }
}

/// Lets one implementation be shared by several servers.
pub(super) fn implementation_for_arc(service: &Service) -> TokenStream {
    let Service { runtime, name, .. } = service;
    let implementation = implementation();
    // An `Arc` has the user's supertraits or has not; only then is it an implementation.
    let supertraits = &service.supertraits;
    let bounds = (!supertraits.is_empty()).then(|| quote!(where Self: #supertraits));
    let methods = service.methods.iter().map(|method| {
        let cfg = method.attributes.cfg();
        let signature = signature(method);
        let method_name = &method.name;
        let parameters = method.parameters.iter().map(Parameter::name);
        quote! {
            #(#cfg)*
            #signature {
                <#implementation as #name>::#method_name(&**self #(, #parameters)*)
            }
        }
    });
    quote! {
        impl<#implementation: #name> #name for #runtime::__private::Arc<#implementation> #bounds {
            #(#methods)*
        }
    }
}

fn signature(method: &Method) -> TokenStream {
    let name = &method.name;
    let parameters = method.parameters.iter().map(|parameter| {
        let (name, ty) = (parameter.name(), parameter.ty());
        quote!(#name: #ty)
    });
    let future = future(&method.output);
    quote!(fn #name(&self #(, #parameters)*) -> #future)
}
