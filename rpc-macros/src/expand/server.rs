//! The server. It decodes a request, runs the implementation's method and encodes its answer, which
//! the runtime sends.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Path;
use syn::spanned::Spanned;

use super::generics::CloneAndDebug;
use super::names::implementation;
use super::{arguments, descriptor, generics};
use crate::model::{Method, Parameter, Service};

/// The server's type.
pub(super) fn definition(service: &Service) -> TokenStream {
    let Service { visibility, .. } = service;
    let server = service.server_name();
    let docs = format!(" Serves an implementation of [`{}`].", service.unraw_name());
    let cfg = service.attributes.cfg();
    let hidden = service.attributes.hidden();
    let deprecated = service.attributes.deprecated();
    let lints = service.attributes.lints();
    let generics = generics::of_server(service);
    let parameter = generics::server_parameter(service);
    let marker = generics::marker_field(service);
    let derive = clone_and_debug(service).derive;
    quote! {
        #[doc = #docs]
        #(#hidden)*
        #(#cfg)*
        #(#deprecated)*
        #(#lints)*
        #[allow(dead_code)]
        #derive
        #visibility struct #server #generics {
            implementation: #parameter,
            #marker
        }
    }
}

fn clone_and_debug(service: &Service) -> CloneAndDebug {
    let (field, parameter) = (
        format_ident!("implementation"),
        generics::server_parameter(service),
    );
    let (name, generics) = (service.server_name(), generics::of_server(service));
    generics::clone_and_debug(service, &name, &generics, &field, Some(&parameter))
}

/// The `impl` blocks of the server's type.
pub(super) fn implementations(service: &Service) -> TokenStream {
    let visibility = &service.visibility;
    let server = generics::server(service);
    let generics = generics::of_implementation(service);
    let (parameters, _, where_clause) = generics.split_for_impl();
    let implementation = implementation();
    let marker = generics::marker_value(service);
    let clone_and_debug = clone_and_debug(service).implementations;
    let import_result_traits = import_result_traits(service);
    let service_impl = service_impl(service);
    quote! {
        #import_result_traits

        #clone_and_debug

        impl #parameters #server #where_clause {
            /// Serves this implementation.
            #visibility fn new(__implementation: #implementation) -> Self {
                Self { implementation: __implementation, #marker }
            }
        }

        #service_impl
    }
}

/// Imports the traits for types that are called `Result` but are not the standard library's, and
/// those that print the errors of methods. The compiler's method lookup selects one for each type.
fn import_result_traits(service: &Service) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let is_needed = service.methods.iter().any(|method| method.is_fallible);
    is_needed.then(|| quote!(use #runtime::__private::{NoResult as _, Unreadable as _, ViaDisplay as _, ViaSerialize as _};))
}

/// The server's `impl` of the runtime's `Service`.
fn service_impl(service: &Service) -> TokenStream {
    let runtime = &service.runtime;
    let server = generics::server(service);
    let generics = generics::of_implementation(service);
    let (parameters, _, where_clause) = generics.split_for_impl();
    let descriptor = descriptor::reference(service);
    let arms = service.methods.iter().map(|method| arm(service, method));
    quote_spanned! {Span::mixed_site()=>
        impl #parameters #runtime::Service for #server #where_clause {
            fn descriptor(&self) -> &'static #runtime::ServiceDescriptor {
                #descriptor
            }

            fn handle<'a>(
                &'a self,
                __invocation: &'a #runtime::Invocation,
            ) -> #runtime::__private::BoxFuture<'a, ::core::result::Result<#runtime::Answer, #runtime::Fault>> {
                #runtime::__private::Box::pin(async move {
                    match __invocation.method() {
                        #(#arms)*
                        __unknown => ::core::result::Result::Err(#runtime::Fault::unknown_method(__unknown)),
                    }
                })
            }
        }
    }
}

/// The arm that decodes a method's arguments, runs the method and encodes its answer.
fn arm(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    let (implementation, service_trait) = (implementation(), generics::service_trait(service));
    let cfg = method.attributes.cfg();
    let wire_name = &method.wire_name;
    let method_name = &method.name;
    let bindings = arguments::pattern(service, method);
    let read = arguments::read(service, method);
    let values = method.parameters.iter().map(|parameter| match parameter {
        Parameter::Context { .. } => quote_spanned!(Span::mixed_site()=> __invocation.context()),
        Parameter::Argument(argument) => arguments::passed(service, method, argument),
        Parameter::Incoming { .. } => quote_spanned!(Span::mixed_site()=> __incoming),
    });
    let incoming = method.incoming().map(|(_, item)| {
        let at_item = Span::mixed_site().located_at(item.span());
        quote_spanned!(at_item=> let __incoming = __invocation.incoming::<#item>()?;)
    });
    // A result that cannot be sent is reported at its type.
    let at_output = Span::mixed_site().located_at(method.output.span());
    let returned = quote_spanned! {at_output=>
        <#implementation as #service_trait>::#method_name(&self.implementation #(, #values)*)
    };
    let answer = if method.stream.is_some() {
        send_stream(runtime, method, &returned, at_output)
    } else {
        let output = quote_spanned!(at_output=> #returned.await);
        encode_output(runtime, method, &output, at_output)
    };
    quote_spanned! {Span::mixed_site()=>
        #(#cfg)*
        #wire_name => {
            let #bindings = #read?;
            #incoming
            #answer
        }
    }
}

/// The expression that encodes the output of a method that returns no stream.
fn encode_output(runtime: &Path, method: &Method, output: &TokenStream, at_output: Span) -> TokenStream {
    if !method.is_fallible {
        return quote_spanned!(at_output=> __invocation.answer(#output));
    }
    let error_text = error_text(runtime, at_output);
    if !method.has_reply() {
        // The client does not mention the type, so the compiler reports here if it is not
        // `Result<(), E>`.
        return quote_spanned!(at_output=> __invocation.answer_job(#output, #error_text));
    }
    let ty = &method.output;
    quote_spanned! {at_output=>
        __invocation.answer_result(<#runtime::__private::IsResult<#ty>>::returned(#output), #error_text)
    }
}

/// The closure that turns a method's error into text, for callers that use plain text. The two
/// references let method lookup find the best of the imported traits for the type of the error.
fn error_text(runtime: &Path, at_output: Span) -> TokenStream {
    quote_spanned!(at_output=> |__error| (&&#runtime::__private::Readable(__error)).__readable_text())
}

/// The expression that sends the items of a stream, and evaluates to the answer that ends it. If
/// the caller expects one reply, the answer is an array of all items.
fn send_stream(runtime: &Path, method: &Method, stream: &TokenStream, at_output: Span) -> TokenStream {
    if !method.is_fallible {
        return quote_spanned!(at_output=> __invocation.send_items(#stream).await);
    }
    let item = &method.output;
    let error_text = error_text(runtime, at_output);
    quote_spanned! {at_output=>
        __invocation
            .send_results(
                #stream,
                |__item| <#runtime::__private::IsResult<#item>>::returned(__item),
                #error_text,
            )
            .await
    }
}
