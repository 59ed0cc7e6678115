//! How arguments are written by the client, and read and lent by the server.
//!
//! They go as a tuple. Where the user has a say in it with `#[serde(..)]`, they go as two structs that serde derives: one
//! of what the client's method takes, to write, and one of owned values, to read.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit_mut::VisitMut;
use syn::{Ident, Lifetime, Path, Type, TypePath, parse_quote};

use super::{generics, method_constant, writers};
use crate::model::{Argument, Method, Serde, Service, Shape};

/// The name that tells the runtime a method's arguments from a struct of the user's.
const ARGUMENTS: &str = "$rpc_runtime::arguments";

/// The structs of all methods that need them.
pub(super) fn definitions(service: &Service) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let derived: Vec<_> = service
        .methods
        .iter()
        .filter(|method| method.has_derived_arguments())
        .map(|method| structs(service, method))
        .collect();
    // Serde takes paths as strings, and a string cannot hold every path: `$crate` is one that it cannot.
    (!derived.is_empty()).then(|| {
        quote! {
            use #runtime::__private::{bytes as __bytes, serde as __serde};
            #(#derived)*
        }
    })
}

fn structs(service: &Service, method: &Method) -> TokenStream {
    let (sent_struct, received_struct) = (sent_struct(method), received_struct(method));
    let cfg = method.attributes.cfg();
    let sent = method.arguments().map(|argument| {
        let Argument { name, serde, .. } = argument;
        let attributes = writers::attributes(service, method, argument);
        let bytes = (is_bytes(argument) && !serde.writes)
            .then(|| quote!(#[serde(serialize_with = "__bytes::serialize")]));
        let ty = sent_type(service, argument);
        quote!(#(#attributes)* #bytes #name: #ty)
    });
    let received = method.arguments().map(|argument| {
        let Argument { name, serde, .. } = argument;
        let Serde { attributes, .. } = serde;
        let bytes = (is_bytes(argument) && !serde.reads)
            .then(|| quote!(#[serde(deserialize_with = "__bytes::deserialize")]));
        let ty = owned_type(service, argument);
        quote!(#(#attributes)* #bytes #name: #ty)
    });
    let functions: Vec<_> = method.arguments().flat_map(writers::functions).collect();
    let generics = &service.generics;
    let where_clause = &generics.where_clause;
    let mut sent_generics = generics.clone();
    if method.arguments().any(borrows) {
        sent_generics.params.insert(0, parse_quote!('sent));
    }
    let functions = (!functions.is_empty()).then(|| {
        let (parameters, arguments, _) = sent_generics.split_for_impl();
        quote! {
            #(#cfg)*
            impl #parameters #sent_struct #arguments #where_clause {
                #(#functions)*
            }
        }
    });
    // Serde would ask for more than the user's own bounds, or for the same again.
    let bound = (!generics.params.is_empty()).then(|| quote!(, bound = ""));
    let marker = generics::marker_type(service).map(|ty| {
        let name = marker(method);
        quote!(#[serde(skip)] #name: #ty,)
    });
    quote! {
        #(#cfg)*
        #[derive(__serde::Serialize)]
        #[serde(crate = "__serde", rename = #ARGUMENTS #bound)]
        struct #sent_struct #sent_generics #where_clause {
            #(#sent,)*
            #marker
        }
        #(#cfg)*
        #[derive(__serde::Deserialize)]
        #[serde(crate = "__serde", rename = #ARGUMENTS #bound)]
        struct #received_struct #generics #where_clause {
            #(#received,)*
            #marker
        }
        #functions
    }
}

/// The name of the field that mentions the type parameters: longer than the name of any other, and so none of them.
fn marker(method: &Method) -> Ident {
    let names: Vec<_> = method
        .arguments()
        .map(|argument| argument.name.unraw().to_string())
        .collect();
    format_ident!("generics_{}", names.join("_"))
}

/// The arguments as the client's method hands them over.
pub(super) fn sent(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    if method.has_derived_arguments() {
        let sent_struct = sent_struct(method);
        let fields = method.arguments().map(at_type);
        let marker = generics::marker_type(service).map(|_| {
            let name = marker(method);
            quote!(#name: ::core::marker::PhantomData,)
        });
        let (_, arguments, _) = service.generics.split_for_impl();
        let arguments = arguments.as_turbofish();
        return quote!(#runtime::__private::Derived(#sent_struct #arguments { #(#fields,)* #marker }));
    }
    let values = method.arguments().map(|argument| {
        let value = at_type(argument);
        // Bytes say that they are bytes, or they would travel as a list of numbers.
        match &argument.shape {
            Shape::Bytes => quote!(#runtime::__private::ByteSlice(#value)),
            Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec => {
                let named = named(service, argument);
                quote!(#named::sent(&#value))
            }
            Shape::Reference(ty) => match other_context(service, ty, "sent") {
                Some(sent) => {
                    let mut value = value;
                    value.set_span(value.span().located_at(ty.span()));
                    quote_spanned!(ty.span()=> #sent(#value))
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

/// The pattern that takes a method's arguments apart.
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

/// The expression that reads a method's arguments.
pub(super) fn read(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.runtime;
    let constant = method_constant(method);
    let invocation = Ident::new("__invocation", Span::mixed_site());
    if method.has_derived_arguments() {
        let received_struct = received_struct(method);
        let (_, arguments, _) = service.generics.split_for_impl();
        let derived = quote!(#runtime::__private::Derived<#received_struct #arguments>);
        return quote!(#invocation.arguments::<#derived>(&#constant));
    }
    let types: Vec<_> = method
        .arguments()
        .map(|argument| received_type(service, argument))
        .collect();
    let reader = format_ident!("arguments_{}", types.len());
    let types = (!types.is_empty()).then(|| quote!(::<#(#types),*>));
    quote!(#runtime::__private::#reader #types(#invocation, &#constant))
}

/// What an argument is read as: itself, or what is lent to the method. Strings and bytes stay where they are in the
/// delivery if they can.
fn received_type(service: &Service, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    match &argument.shape {
        Shape::Str => quote!(#runtime::__private::CowStr<'_>),
        Shape::Bytes => quote!(#runtime::__private::CowBytes<'_>),
        // How the type travels says as what it is read.
        Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec => quote_spanned!(argument.ty.span()=> _),
        Shape::Slice(element) => {
            let runtime = located_at(runtime, element);
            quote_spanned!(element.span()=> #runtime::__private::Vec<#element>)
        }
        // Where it is the context, naming the type here would be an error more.
        Shape::Reference(ty) if other_context(service, ty, "Sent").is_some() => quote!(_),
        Shape::Reference(ty) => ty.to_token_stream(),
        Shape::Owned => argument.ty.to_token_stream(),
    }
}

/// The functions by which an argument travels that text or bytes are taken for by its type's name.
fn named(service: &Service, argument: &Argument) -> TokenStream {
    let (runtime, ty) = (&service.runtime, &argument.ty);
    quote!(<#runtime::__private::Named<#ty>>)
}

/// Brings in the functions of [`named`] for types of the user's.
pub(super) fn of_names(service: &Service) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let is_named = |argument: &Argument| {
        matches!(
            argument.shape,
            Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec
        )
    };
    let mut arguments = service.methods.iter().flat_map(Method::arguments);
    let is_needed = arguments.any(is_named);
    is_needed.then(|| quote!(use #runtime::__private::NamedAlike as _;))
}

/// The path, so placed that the compiler underlines this type, or whatever it is, where it would underline what is named with the path.
pub(super) fn located_at(path: &Path, ty: &impl Spanned) -> Path {
    let mut path = path.clone();
    if let Some(colons) = &mut path.leading_colon {
        colons.spans = colons.spans.map(|span| span.located_at(ty.span()));
    }
    for segment in &mut path.segments {
        segment.ident.set_span(segment.ident.span().located_at(ty.span()));
    }
    path
}

/// For a type that goes by the name of the context, this item of the trait through which it travels: if it is the context, the user has
/// forgotten to mark the parameter, and this trait is not there.
fn other_context(service: &Service, ty: &Type, item: &str) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let Type::Path(TypePath {
        qself: None, path, ..
    }) = ty
    else {
        return None;
    };
    let name = &path.segments.last()?.ident;
    let is_parameter = service
        .generics
        .type_params()
        .any(|parameter| parameter.ident == *name);
    (name == "Context" && !is_parameter).then(|| {
        let item = Ident::new(item, ty.span());
        quote_spanned! {ty.span()=>
            <#ty as #runtime::__private::OtherContext<{
                use #runtime::__private::NoContext as _;
                <#runtime::__private::Candidate<#ty>>::IS_CONTEXT
            }>>::#item
        }
    })
}

/// An argument as the method takes it.
pub(super) fn lent(service: &Service, method: &Method, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    let name = &argument.name;
    match &argument.shape {
        Shape::Str | Shape::Bytes => quote!(&#name),
        Shape::Slice(element) => {
            let lent = at_type(argument);
            quote_spanned!(element.span()=> #runtime::__private::lend_slice::<#element>(&#lent))
        }
        Shape::Reference(ty) => {
            let mut lent = at_type(argument);
            lent.set_span(lent.span().located_at(ty.span()));
            let lent = match other_context(service, ty, "received") {
                Some(received) if !method.has_derived_arguments() => {
                    quote_spanned!(ty.span()=> #received(&#lent))
                }
                _ => quote!(&#lent),
            };
            quote_spanned!(ty.span()=> #runtime::__private::lend::<#ty>(#lent))
        }
        _ if method.has_derived_arguments() => quote!(#name),
        Shape::CowBytes { is_static: true } => {
            let named = named(service, argument);
            quote!(#named::received_to_keep(#name))
        }
        Shape::CowStr | Shape::CowBytes { .. } | Shape::ByteVec => {
            let named = named(service, argument);
            quote!(#named::received(#name))
        }
        Shape::Owned => quote!(#name),
    }
}

/// The type of a field of the struct to write: what the client's method takes.
fn sent_type(service: &Service, argument: &Argument) -> TokenStream {
    match &argument.shape {
        Shape::Str => quote!(&'sent ::core::primitive::str),
        Shape::Bytes => quote!(&'sent [::core::primitive::u8]),
        Shape::Slice(element) => {
            let element = with_lifetime(element, "'sent");
            quote!(&'sent [#element])
        }
        Shape::Reference(ty) => {
            let ty = with_lifetime(ty, "'sent");
            quote!(&'sent #ty)
        }
        Shape::CowStr | Shape::CowBytes { .. } => cow(service, argument, "'sent"),
        Shape::ByteVec | Shape::Owned => with_lifetime(&argument.ty, "'sent").into_token_stream(),
    }
}

/// The type of a field of the struct to read.
fn owned_type(service: &Service, argument: &Argument) -> TokenStream {
    let runtime = &service.runtime;
    let ty = match &argument.shape {
        Shape::Str => return quote!(#runtime::__private::String),
        Shape::Bytes => return quote!(#runtime::__private::Vec<::core::primitive::u8>),
        Shape::Slice(element) => {
            let element = with_lifetime(element, "'static");
            return quote!(#runtime::__private::Vec<#element>);
        }
        Shape::CowStr | Shape::CowBytes { .. } => return cow(service, argument, "'static"),
        Shape::Reference(ty) => ty,
        Shape::ByteVec | Shape::Owned => &argument.ty,
    };
    with_lifetime(ty, "'static").into_token_stream()
}

/// A `Cow` with this lifetime, whether or not the user wrote one.
fn cow(service: &Service, argument: &Argument, lifetime: &str) -> TokenStream {
    let runtime = &service.runtime;
    let lifetime = Lifetime::new(lifetime, Span::mixed_site());
    let lent = match argument.shape {
        Shape::CowStr => quote!(::core::primitive::str),
        _ => quote!([::core::primitive::u8]),
    };
    quote!(#runtime::__private::Cow<#lifetime, #lent>)
}

/// Whether the field of the struct to write has a lifetime.
fn borrows(argument: &Argument) -> bool {
    match argument.shape {
        Shape::ByteVec | Shape::Owned => is_anonymous(&argument.ty),
        _ => true,
    }
}

/// The type with this lifetime for each `'_`, which a struct's field cannot have.
pub(super) fn with_lifetime(ty: &Type, lifetime: &str) -> Type {
    let mut ty = ty.clone();
    name_lifetimes(&mut ty, lifetime);
    ty
}

/// Whether the type has a `'_`.
fn is_anonymous(ty: &Type) -> bool {
    name_lifetimes(&mut ty.clone(), "'sent") > 0
}

/// Puts this lifetime in the place of each `'_`, and counts them.
fn name_lifetimes(ty: &mut Type, lifetime: &str) -> usize {
    struct Names<'a> {
        lifetime: &'a str,
        given: usize,
    }

    impl VisitMut for Names<'_> {
        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            if lifetime.ident == "_" {
                *lifetime = Lifetime::new(self.lifetime, lifetime.span());
                self.given += 1;
            }
        }
    }

    let mut names = Names { lifetime, given: 0 };
    names.visit_type_mut(ty);
    names.given
}

fn is_bytes(argument: &Argument) -> bool {
    matches!(
        argument.shape,
        Shape::Bytes | Shape::CowBytes { .. } | Shape::ByteVec
    )
}

/// The argument's name, so placed that a type which cannot be sent is what the compiler underlines.
fn at_type(argument: &Argument) -> Ident {
    let mut name = argument.name.clone();
    name.set_span(name.span().located_at(argument.ty.span()));
    name
}

pub(super) fn sent_struct(method: &Method) -> Ident {
    format_ident!("__sent_{}", method.name.unraw(), span = Span::mixed_site())
}

fn received_struct(method: &Method) -> Ident {
    format_ident!("__received_{}", method.name.unraw(), span = Span::mixed_site())
}
