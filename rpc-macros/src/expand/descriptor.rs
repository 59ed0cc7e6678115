//! Constants that describe the service and its methods to the runtime.

use std::time::Duration;

use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, quote};

use super::names::{descriptors, method_constant, method_constant_name};
use super::schemas;
use crate::attributes::{Attributes, DocLine};
use crate::model::{Argument, Kind, Method, Retry, ReturnTypes, Service};
use crate::spelling;

/// A constant for each method, and the one for the service.
pub(super) fn constants(service: &Service) -> TokenStream {
    let Service { runtime, queue, .. } = service;
    let descriptors = descriptors();
    let name = service.unraw_name();
    let docs = docs(&service.attributes);
    let methods = service
        .methods
        .iter()
        .map(|method| method_descriptor(service, method));
    let entries = service.methods.iter().map(|method| {
        let cfg = method.attributes.cfg();
        let constant = method_constant(method);
        quote!(#(#cfg)* #constant)
    });
    quote! {
        enum #descriptors {}

        impl #descriptors {
            #(#methods)*
            const service: #runtime::ServiceDescriptor =
                #runtime::ServiceDescriptor::new(#name, #queue, &[#(#entries),*])#docs;
        }
    }
}

/// A `&'static` reference to the service's descriptor. Schemas are added here: they depend on the
/// service's type parameters, and the constants cannot.
pub(super) fn reference(service: &Service) -> TokenStream {
    let descriptors = descriptors();
    match schemas::function_path(service) {
        Some(schemas) => quote!(const { &#descriptors::service.schemas(#schemas) }),
        None => quote!(&#descriptors::service),
    }
}

/// The constant that describes a method.
fn method_descriptor(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    let constant = method_constant_name(method);
    let cfg = method.attributes.cfg();
    let name = &method.wire_name;
    let arguments = method.arguments().map(|argument| &argument.wire_name);
    let default = method.is_default.then(|| quote!(.default_method()));
    let kind = match method.kind {
        Kind::Call => None,
        Kind::IdempotentCall => Some(quote!(.idempotent())),
        Kind::OneWay => Some(quote!(.oneway())),
        Kind::IdempotentOneWay => Some(quote!(.oneway().idempotent())),
        Kind::Broadcast => Some(quote!(.broadcast())),
        Kind::OneWayBroadcast => Some(quote!(.oneway().broadcast())),
        Kind::Stream => Some(quote!(.streaming())),
        Kind::IdempotentStream => Some(quote!(.streaming().idempotent())),
    };
    let incoming = method.incoming().map(|(_, item)| {
        let type_name = spelling::of(item);
        quote!(.incoming(#type_name))
    });
    let resumed_by = method.resumed_by().map(|argument| {
        let name = &argument.wire_name;
        quote!(.resumed_by(#name))
    });
    let cancellable = method.is_cancellable.then(|| quote!(.cancellable()));
    let retry = method.retry.as_ref().map(|Retry { times, min, max }| {
        let (times, min, max) = (Literal::u16_unsuffixed(*times), duration(*min), duration(*max));
        quote!(.retry(#runtime::describe::RetryPolicy::new(#times, #min, #max)))
    });
    let timeout = method.timeout.map(|timeout| {
        let timeout = duration(timeout);
        quote!(.timeout(#timeout))
    });
    let docs = docs(&method.attributes);
    let details = argument_details(service, method);
    let returns = returns(&method.returns);
    quote! {
        #(#cfg)*
        const #constant: #runtime::MethodDescriptor =
            #runtime::MethodDescriptor::new(#name, &[#(#arguments),*])#default #kind #incoming #resumed_by #cancellable #retry #timeout #docs #details #returns;
    }
}

fn argument_details(service: &Service, method: &Method) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let details: Vec<_> = method
        .arguments()
        .map(|argument| {
            let Argument { ty, serde, .. } = argument;
            let type_name = spelling::of(ty);
            let optional = argument.is_optional.then(|| quote!(.optional()));
            let aliases = &serde.aliases;
            let aliases = (!aliases.is_empty()).then(|| quote!(.aliases(&[#(#aliases),*])));
            quote!(#runtime::describe::ArgumentDescriptor::new(#type_name)#optional #aliases)
        })
        .collect();
    (!details.is_empty()).then(|| quote!(.argument_details(&[#(#details),*])))
}

fn returns(ReturnTypes { success, error }: &ReturnTypes) -> TokenStream {
    let error = error.as_ref().map(|error| quote!(.error(#error)));
    quote!(.returns(#success)#error)
}

fn duration(duration: Duration) -> TokenStream {
    let milliseconds = Literal::u128_unsuffixed(duration.as_millis());
    quote!(::core::time::Duration::from_millis(#milliseconds))
}

/// The call that sets the docs as one text, which the compiler joins if a macro makes a part of it.
/// `None` if there are no docs.
fn docs(attributes: &Attributes) -> Option<TokenStream> {
    let lines = attributes.doc_lines();
    let (first, others) = lines.split_first()?;
    let as_text = |line: &DocLine| match line {
        DocLine::Text(text) => Some(text.clone()),
        DocLine::Macro(_) => None,
    };
    let docs = match lines.iter().map(as_text).collect::<Option<Vec<_>>>() {
        Some(lines) => lines.join("\n").into_token_stream(),
        None => quote!(::core::concat!(#first #(, "\n", #others)*)),
    };
    Some(quote!(.docs(#docs)))
}
