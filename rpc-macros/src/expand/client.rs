//! The client: one method for each of the trait's, which encodes its arguments and returns the call.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use super::{method_constant, service_constant};
use crate::model::{Argument, Method, Service, Shape};

/// The client's type.
pub(super) fn definition(service: &Service) -> TokenStream {
    let Service {
        runtime, visibility, ..
    } = service;
    let client = service.client_name();
    let docs = format!(" Calls a [`{}`] over a broker.", service.name);
    let cfg = service.attributes.cfg();
    let deprecated = service.attributes.deprecated();
    let lints = service.attributes.lints();
    quote! {
        #[doc = #docs]
        #(#cfg)*
        #(#deprecated)*
        #(#lints)*
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #visibility struct #client {
            client: #runtime::__private::Client,
        }
    }
}

/// What the client can do.
pub(super) fn implementations(service: &Service) -> TokenStream {
    let Service {
        runtime, visibility, ..
    } = service;
    let client = service.client_name();
    let constant = service_constant();
    let methods = service.methods.iter().map(|method| call_method(service, method));
    quote! {
        impl #runtime::ServiceClient for #client {
            const SERVICE: &'static #runtime::ServiceDescriptor = &#constant;

            fn from_client(client: #runtime::__private::Client) -> Self {
                Self { client }
            }
        }

        impl #client {
            /// A client of the service on its own queue; [`builder`](Self::builder) has options.
            #visibility fn new(broker: &#runtime::Broker) -> Self {
                Self::builder(broker).build()
            }

            /// A client with options, such as another queue.
            #visibility fn builder(broker: &#runtime::Broker) -> #runtime::ClientBuilder<Self> {
                #runtime::ClientBuilder::new(broker)
            }

            #(#methods)*
        }
    }
}

fn call_method(service: &Service, method: &Method) -> TokenStream {
    let Service {
        runtime, visibility, ..
    } = service;
    let Method {
        attributes,
        name,
        output,
        ..
    } = method;
    let constant = method_constant(method);
    let docs = docs(service, method);
    let cfg = attributes.cfg();
    let deprecated = attributes.deprecated();
    let must_use = attributes.must_use();
    let lints = attributes.lints();
    let parameters = method
        .arguments()
        .map(|Argument { name, ty, .. }| quote!(#name: #ty));
    let values = method.arguments().map(|argument| sent_value(service, argument));
    // An argument that cannot be sent is reported at its name, if the call seems to be written where the method is.
    let (call_type, call) = if method.is_fallible {
        (
            quote!(FallibleCall),
            quote_spanned!(name.span()=> call_fallible::<#output>),
        )
    } else {
        (quote!(Call), quote_spanned!(name.span()=> call))
    };
    let arguments = quote_spanned!(name.span()=> (#(#values,)*));
    quote! {
        #docs
        #(#cfg)*
        #(#deprecated)*
        #(#must_use)*
        #(#lints)*
        #visibility fn #name(&self #(, #parameters)*) -> #runtime::#call_type<#output> {
            self.client.#call(&#constant, #arguments)
        }
    }
}

/// The user's docs; if there are none, a line that leads to the trait.
fn docs(service: &Service, method: &Method) -> TokenStream {
    let docs = method.attributes.docs();
    let fallback = (!method.attributes.is_documented()).then(|| {
        let line = format!(" Calls [`{}::{}`].", service.name, method.name);
        quote!(#[doc = #line])
    });
    quote!(#fallback #(#docs)*)
}

/// The argument as it is encoded. Bytes say that they are bytes, or they would travel as a list of numbers.
fn sent_value(service: &Service, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    let name = &argument.name;
    match argument.shape {
        Shape::Bytes => quote!(#runtime::__private::ByteSlice(#name)),
        Shape::ByteVec => quote!(#runtime::__private::ByteSlice(&#name)),
        Shape::Str | Shape::Slice(_) | Shape::Reference(_) | Shape::Owned => quote!(#name),
    }
}
