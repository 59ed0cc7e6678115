//! The client. It has one method for each method of the trait, which encodes the arguments and
//! returns the call.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Generics, Ident};

use super::generics::CloneAndDebug;
use super::names::method_constant;
use super::spans::{at_type, located_at};
use super::{arguments, descriptor, generics};
use crate::model::{Answers, Argument, Method, Parameter, Service};

/// The client's type.
pub(super) fn definition(service: &Service) -> TokenStream {
    let Service {
        runtime, visibility, ..
    } = service;
    let client = service.client_name();
    let docs = format!(" Calls a [`{}`] over a broker.", service.unraw_name());
    let cfg = service.attributes.cfg();
    let hidden = service.attributes.hidden();
    let deprecated = service.attributes.deprecated();
    let lints = service.attributes.lints();
    let generics = generics::of_client(service);
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
        #visibility struct #client #generics {
            client: #runtime::__private::Client,
            #marker
        }
    }
}

fn clone_and_debug(service: &Service) -> CloneAndDebug {
    let field = format_ident!("client");
    let generics = generics::of_client(service);
    generics::clone_and_debug(service, &service.client_name(), &generics, &field, None)
}

/// The `impl` blocks of the client's type. `methods` are those that call the service.
pub(super) fn implementations(service: &Service, methods: &[TokenStream]) -> TokenStream {
    let Service {
        runtime, visibility, ..
    } = service;
    let client = generics::client(service);
    let generics = generics::with_bounds(service);
    let (parameters, _, where_clause) = generics.split_for_impl();
    let marker = generics::marker_value(service);
    let clone_and_debug = clone_and_debug(service).implementations;
    let server = generics::server_of_any(service);
    let bound = generics::implementation_bound(service);
    let descriptor = descriptor::reference(service);
    quote! {
        #clone_and_debug

        impl #parameters #runtime::ServiceClient for #client #where_clause {
            const SERVICE: &'static #runtime::ServiceDescriptor = #descriptor;

            fn from_client(__client: #runtime::__private::Client) -> Self {
                Self { client: __client, #marker }
            }
        }

        impl #parameters #client #where_clause {
            /// A client that uses the default queue; [`builder`](Self::builder) has options.
            #visibility fn new(__broker: &#runtime::Broker) -> Self {
                Self::builder(__broker).build()
            }

            /// A client with options, such as another queue.
            #visibility fn builder(__broker: &#runtime::Broker) -> #runtime::ClientBuilder<Self> {
                #runtime::ClientBuilder::new(__broker)
            }

            /// A client that calls this implementation in this process, without a broker.
            #visibility fn in_process(__implementation: impl #bound) -> Self {
                #runtime::ClientBuilder::in_process(#server::new(__implementation)).build()
            }

            #(#methods)*
        }
    }
}

/// The methods that call the service.
pub(super) fn methods(service: &Service) -> Vec<TokenStream> {
    let methods = service.methods.iter();
    methods.map(|method| client_method(service, method)).collect()
}

/// A method of the client, which encodes the arguments and returns the call.
fn client_method(service: &Service, method: &Method) -> TokenStream {
    let header = method_header(service, method, &Generics::default());
    let answer = &method.answer_type();
    let runtime = located_at(&service.runtime, answer);
    let constant = method_constant(method);
    let arguments = arguments::sent(service, method);
    let at_output = at_output(method);
    let (function, _) = call_function_and_type(method);
    let call = quote_spanned! {at_output=>
        #runtime::__private::Client::#function::<#answer>(&self.client, &#constant, #arguments)
    };
    let resumption_check = method
        .resumed_by()
        .map(|argument| resumption_check(service, method, argument));
    let call = match method.incoming() {
        None => call,
        Some((name, item)) => {
            let runtime = located_at(&service.runtime, item);
            quote_spanned! {item.span()=>
                #runtime::__private::SendsItems::with_items::<#item>(#call, #name)
            }
        }
    };
    quote!(#header { #resumption_check #call })
}

/// The statement that makes the compiler check that the argument that resumes a stream is an
/// `Option<T>`, for items of type `T` or `Result<T, E>`. Its errors point at the argument's type.
fn resumption_check(service: &Service, method: &Method, argument: &Argument) -> TokenStream {
    let ty = &argument.ty;
    // The type of the stream's items.
    let answer = method.answer_type();
    let item = if method.is_fallible {
        let runtime = located_at(&service.runtime, ty);
        quote_spanned!(ty.span()=> <#answer as #runtime::__private::ResultType>::Ok)
    } else {
        quote!(#answer)
    };
    let value = at_type(argument);
    quote_spanned!(ty.span()=> let _: &::core::option::Option<#item> = &#value;)
}

/// A method of a client whose service was refused.
pub(super) fn stub_method(service: &Service, method: &Method, generics: &Generics) -> TokenStream {
    let header = method_header(service, method, generics);
    quote!(#[allow(unused_variables)] #header { ::core::unimplemented!() })
}

/// Everything before a method's body. `generics` are parameters of the method itself, which only
/// methods of a refused service have.
fn method_header(service: &Service, method: &Method, generics: &Generics) -> TokenStream {
    let Method { attributes, name, .. } = method;
    let answer = &method.answer_type();
    let visibility = &service.visibility;
    let docs = docs(service, method);
    let cfg = attributes.cfg();
    let deprecated = attributes.deprecated();
    let must_use = attributes.must_use();
    let lints = attributes.lints();
    let (type_parameters, _, where_clause) = generics.split_for_impl();
    let runtime = &service.runtime;
    let parameters = method.parameters.iter().filter_map(|parameter| match parameter {
        Parameter::Context { .. } => None,
        Parameter::Argument(Argument { name, ty, .. }) => Some(quote!(#name: #ty)),
        Parameter::Incoming { name, item, .. } => Some(quote! {
            #name: impl #runtime::__private::Stream<Item = #item> + ::core::marker::Send + 'static
        }),
    });
    let at_output = at_output(method);
    let runtime = located_at(&service.runtime, answer);
    let (_, call_type) = call_function_and_type(method);
    let call_type = quote_spanned!(at_output=> #runtime::#call_type<#answer>);
    quote! {
        #docs
        #(#cfg)*
        #(#deprecated)*
        #(#must_use)*
        #(#lints)*
        #visibility fn #name #type_parameters (&self #(, #parameters)*) -> #call_type #where_clause
    }
}

/// The function of the runtime's `Client` that makes the call, and the type that it returns.
fn call_function_and_type(method: &Method) -> (Ident, Ident) {
    let answers_are_results = method.is_fallible && method.has_reply();
    let (function, call_type) = match (method.answers(), answers_are_results) {
        (Answers::One, false) => ("call", "Call"),
        (Answers::One, true) => ("call_fallible", "FallibleCall"),
        (Answers::OfEachWorker, false) => ("broadcast", "Broadcast"),
        (Answers::OfEachWorker, true) => ("broadcast_fallible", "FallibleBroadcast"),
        (Answers::Stream, false) => ("stream", "StreamingCall"),
        (Answers::Stream, true) => ("stream_fallible", "FallibleStreamingCall"),
    };
    let at_output = at_output(method);
    (Ident::new(function, at_output), Ident::new(call_type, at_output))
}

/// The span for what depends on the output type. If that type is called `Result` but is not the
/// standard library's, all errors have this span, and the compiler reports them as one.
fn at_output(method: &Method) -> Span {
    Span::call_site().located_at(method.output.span())
}

/// The user's docs. If there are none, or only ones under conditions that may not hold, a line with
/// a link to the trait's method comes first. In a link, names are without `r#`: rustdoc does not
/// resolve raw ones.
fn docs(service: &Service, method: &Method) -> TokenStream {
    let docs = method.attributes.docs();
    let fallback = (!method.attributes.is_documented()).then(|| {
        let line = format!(" Calls [`{}::{}`].", service.unraw_name(), method.name.unraw());
        quote!(#[doc = #line])
    });
    quote!(#fallback #(#docs)*)
}
