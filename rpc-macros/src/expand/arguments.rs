//! Writes arguments in the client; reads them and passes them to the implementation in the server.
//!
//! Arguments are encoded from a tuple and decoded into one. If one of them has a `#[serde(..)]`
//! attribute, the structs of [`argument_structs`](super::argument_structs) replace the tuple.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, Type, TypePath};

use super::generics;
use super::names::{argument_marker, method_constant, received_struct, sent_struct};
use super::spans::{at_type, located_at, name_at};
use crate::model::{Argument, Method, Service, Shape};

/// The arguments that the client's method sends, as an expression.
pub(super) fn sent(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    if method.has_derived_arguments() {
        let sent_struct = sent_struct(method);
        let fields = method.arguments().map(at_type);
        let marker = generics::marker_type(service).map(|_| {
            let name = argument_marker(method);
            quote!(#name: ::core::marker::PhantomData,)
        });
        let (_, generic_arguments, _) = service.generics.split_for_impl();
        let turbofish = generic_arguments.as_turbofish();
        return quote!(#runtime::__private::Derived(#sent_struct #turbofish { #(#fields,)* #marker }));
    }
    let values = method.arguments().map(|argument| {
        let value = at_type(argument);
        match &argument.shape {
            // Without the wrapper, bytes would be encoded as a list of numbers.
            Shape::Bytes => quote!(#runtime::__private::ByteSlice(#value)),
            Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec => {
                let conversion = conversion_type(service, argument);
                quote!(#conversion::sent(&#value))
            }
            Shape::Reference(ty) => match context_check(service, ty, "sent") {
                Some(function) => {
                    let value = name_at(argument, ty);
                    quote_spanned!(ty.span()=> #function(#value))
                }
                None => quote!(#value),
            },
            Shape::Str | Shape::Slice(_) | Shape::Owned => {
                quote!(#value)
            }
        }
    });
    quote_spanned!(method.name.span()=> (#(#values,)*))
}

/// The pattern that destructures a method's arguments.
pub(super) fn pattern(service: &Service, method: &Method) -> TokenStream {
    let names = method.arguments().map(|argument| &argument.name);
    if !method.has_derived_arguments() {
        return quote!((#(#names,)*));
    }
    let runtime = &service.runtime;
    let received_struct = received_struct(method);
    let rest = generics::marker_type(service).map(|_| quote!(..));
    quote!(#runtime::__private::Derived(#received_struct { #(#names,)* #rest }))
}

/// The expression that reads a method's arguments. It evaluates to a `Result`, with what
/// [`pattern`] destructures or the fault to reply.
pub(super) fn read(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    let constant = method_constant(method);
    let invocation = Ident::new("__invocation", Span::mixed_site());
    if method.has_derived_arguments() {
        let received_struct = received_struct(method);
        let (_, generic_arguments, _) = service.generics.split_for_impl();
        let derived = quote!(#runtime::__private::Derived<#received_struct #generic_arguments>);
        return quote!(#invocation.arguments::<#derived>(&#constant));
    }
    let types: Vec<_> = method
        .arguments()
        .map(|argument| received_type(service, argument))
        .collect();
    // There is a function for each number of arguments, with a bound on each type. If a type does
    // not meet it, the compiler's error points at that type, not at a tuple.
    let reader = format_ident!("arguments_{}", types.len());
    let types = (!types.is_empty()).then(|| quote!(::<#(#types),*>));
    quote!(#runtime::__private::#reader #types(#invocation, &#constant))
}

/// The type that an element of the tuple is read as: the argument's own, or the owner of what it
/// borrows. It is `_` if [`passed`] determines it. Strings and bytes borrow from the delivery if
/// possible.
fn received_type(service: &Service, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    match &argument.shape {
        Shape::Str => quote!(#runtime::__private::CowStr<'_>),
        Shape::Bytes => quote!(#runtime::__private::CowBytes<'_>),
        // The functions of `conversion_type` determine the type.
        Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec => quote_spanned!(argument.ty.span()=> _),
        Shape::Slice(element) => {
            let runtime = located_at(runtime, element);
            quote_spanned!(element.span()=> #runtime::__private::Vec<#element>)
        }
        // `OtherContext::received`, in `passed`, determines a type that is named `Context`. If it
        // is the worker's own context, the compiler reports that there, and would report it again
        // if the type were named here.
        Shape::Reference(ty) if is_named_context(service, ty) => quote!(_),
        Shape::Reference(ty) => ty.to_token_stream(),
        Shape::Owned => argument.ty.to_token_stream(),
    }
}

/// The type with the functions that convert an argument whose type is named like text or bytes,
/// such as `Vec<u8>`.
fn conversion_type(service: &Service, argument: &Argument) -> TokenStream {
    let (runtime, ty) = (&service.runtime, &argument.ty);
    quote!(<#runtime::__private::ArgumentConversion<#ty>>)
}

/// Imports the trait `NoConversion`, if an argument's type is named like text or bytes. If such a
/// type is the user's own, the trait has the functions that [`conversion_type`] lacks.
pub(super) fn import_no_conversion(service: &Service) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let is_converted = |argument: &Argument| {
        matches!(
            argument.shape,
            Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec
        )
    };
    let mut arguments = service.methods.iter().flat_map(Method::arguments);
    let is_needed = arguments.any(is_converted);
    is_needed.then(|| quote!(use #runtime::__private::NoConversion as _;))
}

/// Whether the type is named `Context`, and is not a type parameter of that name.
fn is_named_context(service: &Service, ty: &Type) -> bool {
    let Type::Path(TypePath {
        qself: None, path, ..
    }) = ty
    else {
        return false;
    };
    let mut parameters = service.generics.type_params();
    path.segments.last().is_some_and(|last| last.ident == "Context")
        && !parameters.any(|parameter| parameter.ident == "Context")
}

/// The path of a function of the trait `OtherContext`, or `None` if the type is not named
/// `Context`.
///
/// The function returns its argument. It is only called to make the compiler report a parameter
/// that lacks `#[rpc(context)]`: every type implements `OtherContext<false>`, and the constant is
/// `true` for the runtime's own context.
fn context_check(service: &Service, ty: &Type, function: &str) -> Option<TokenStream> {
    let runtime = &service.runtime;
    is_named_context(service, ty).then(|| {
        let function = Ident::new(function, ty.span());
        quote_spanned! {ty.span()=>
            <#ty as #runtime::__private::OtherContext<{
                use #runtime::__private::NoContext as _;
                <#runtime::__private::IsContext<#ty>>::IS_CONTEXT
            }>>::#function
        }
    })
}

/// The expression that passes a received argument to the implementation's method.
pub(super) fn passed(service: &Service, method: &Method, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    let name = &argument.name;
    match &argument.shape {
        Shape::Str | Shape::Bytes => quote!(&#name),
        Shape::Slice(element) => {
            let lent = at_type(argument);
            quote_spanned!(element.span()=> #runtime::__private::lend_slice::<#element>(&#lent))
        }
        Shape::Reference(ty) => {
            let lent = name_at(argument, ty);
            let lent = match context_check(service, ty, "received") {
                // In a derived struct, the compiler reports the context as the type of a field.
                Some(function) if !method.has_derived_arguments() => {
                    quote_spanned!(ty.span()=> #function(&#lent))
                }
                _ => quote!(&#lent),
            };
            quote_spanned!(ty.span()=> #runtime::__private::lend::<#ty>(#lent))
        }
        // The struct's field has the type that the method takes.
        _ if method.has_derived_arguments() => quote!(#name),
        Shape::CowBytes { is_static: true } => {
            let conversion = conversion_type(service, argument);
            quote!(#conversion::received_owned(#name))
        }
        Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec => {
            let conversion = conversion_type(service, argument);
            quote!(#conversion::received(#name))
        }
        Shape::Owned => quote!(#name),
    }
}
