//! The server: takes a request apart, runs the implementation's method, and answers.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::Ident;
use syn::spanned::Spanned;

use super::{implementation, method_constant, service_constant};
use crate::model::{Argument, Method, Parameter, Service, Shape};

/// The server's type.
pub(super) fn definition(service: &Service) -> TokenStream {
    let Service { visibility, .. } = service;
    let server = service.server_name();
    let docs = format!(" Serves an implementation of [`{}`].", service.name);
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
        #visibility struct #server<T> {
            implementation: T,
        }
    }
}

/// What the server can do.
pub(super) fn implementations(service: &Service) -> TokenStream {
    let Service { visibility, name, .. } = service;
    let server = service.server_name();
    let implementation = implementation();
    let text_of_errors = text_of_errors(service);
    let dispatcher = dispatcher(service);
    quote! {
        #text_of_errors

        impl<#implementation: #name> #server<#implementation> {
            /// Serves this implementation.
            #visibility fn new(implementation: #implementation) -> Self {
                Self { implementation }
            }
        }

        #dispatcher
    }
}

/// Brings in what renders a method's error as text. Which of the two traits does is decided for each error type: the
/// first needs `Display`, and method lookup prefers it.
fn text_of_errors(service: &Service) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let is_needed = service.methods.iter().any(|method| method.is_fallible);
    is_needed.then(|| quote!(use #runtime::__private::{ViaDisplay as _, ViaSerialize as _};))
}

fn dispatcher(service: &Service) -> TokenStream {
    let Service { runtime, name, .. } = service;
    let server = service.server_name();
    let implementation = implementation();
    let constant = service_constant();
    let arms = service.methods.iter().map(|method| arm(service, method));
    quote_spanned! {Span::mixed_site()=>
        impl<#implementation: #name> #runtime::Service for #server<#implementation> {
            fn descriptor(&self) -> &'static #runtime::ServiceDescriptor {
                &#constant
            }

            fn handle<'a>(
                &'a self,
                invocation: &'a #runtime::Invocation,
            ) -> #runtime::__private::BoxFuture<'a, ::core::result::Result<#runtime::Answer, #runtime::Fault>> {
                #runtime::__private::Box::pin(async move {
                    match invocation.method() {
                        #(#arms)*
                        unknown => ::core::result::Result::Err(#runtime::Fault::unknown_method(unknown)),
                    }
                })
            }
        }
    }
}

/// Decodes the arguments, runs the method and answers.
fn arm(service: &Service, method: &Method) -> TokenStream {
    let Service { runtime, name, .. } = service;
    let implementation = implementation();
    let constant = method_constant(method);
    let cfg = method.attributes.cfg();
    let wire_name = &method.wire_name;
    let method_name = &method.name;
    let bindings = method.arguments().map(|argument| &argument.name);
    let decoded = method.arguments().map(|argument| decoded_type(service, argument));
    let values = method.parameters.iter().map(lent_value);
    // An argument that cannot be decoded is reported at the method, a result that cannot be sent at its type.
    let decode = Ident::new("arguments", method_name.span());
    let at_output = Span::mixed_site().located_at(method.output.span());
    let outcome = quote_spanned! {at_output=>
        <#implementation as #name>::#method_name(&self.implementation #(, #values)*).await
    };
    let answer = if method.is_fallible {
        quote_spanned! {at_output=>
            invocation.answer_result(#outcome, |error| (&#runtime::__private::Readable(error)).text())
        }
    } else {
        quote_spanned!(at_output=> invocation.answer(#outcome))
    };
    quote_spanned! {Span::mixed_site()=>
        #(#cfg)*
        #wire_name => {
            let (#(#bindings,)*): (#(#decoded,)*) = invocation.#decode(&#constant)?;
            #answer
        }
    }
}

/// What an argument is decoded to: itself, or what is lent to the method. Strings and bytes stay where they are in
/// the delivery if they can.
fn decoded_type(service: &Service, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    match &argument.shape {
        Shape::Str => quote!(#runtime::__private::CowStr<'_>),
        Shape::Bytes => quote!(#runtime::__private::CowBytes<'_>),
        Shape::Slice(element) => quote!(#runtime::__private::Vec<#element>),
        Shape::Reference(referent) => quote!(#referent),
        Shape::ByteVec | Shape::Owned => {
            let ty = &argument.ty;
            quote!(#ty)
        }
    }
}

/// A parameter as the method takes it.
fn lent_value(parameter: &Parameter) -> TokenStream {
    let argument = match parameter {
        Parameter::Context { .. } => return quote_spanned!(Span::mixed_site()=> invocation.context()),
        Parameter::Argument(argument) => argument,
    };
    let name = &argument.name;
    match argument.shape {
        Shape::Str | Shape::Bytes | Shape::Slice(_) | Shape::Reference(_) => quote!(&#name),
        Shape::ByteVec | Shape::Owned => quote!(#name),
    }
}
