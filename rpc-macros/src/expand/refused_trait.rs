//! A trait that the macro has refused, because of a mistake in it, as far as the compiler accepts
//! it. It is emitted so that the user sees no further errors of what uses the trait.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, ReturnType, Signature, parse_quote, parse_quote_spanned};

use super::generics::remove_defaults;
use super::names::implementation;
use crate::attributes::{Attributes, find_in_cfg_attr, is_rpc};
use crate::syntax::{ServiceTrait, TraitItem, TraitMethod, is_never, mentions, mentions_self, plain_name};

/// The trait without the attributes of this crate and of parameters, and with the supertraits of a
/// service. Its futures are `Send`, as implementations and callers expect, unless a type parameter
/// has no bound.
pub(super) fn definition(syntax: &ServiceTrait) -> TokenStream {
    let ServiceTrait {
        visibility,
        unsafety,
        name,
        generics,
        supertraits,
        ..
    } = syntax;
    let attributes = without_ours(&syntax.attributes);
    let (supertraits, where_clause) = (supertraits.iter(), &generics.where_clause);
    let items = syntax.items.iter().map(|item| match item {
        TraitItem::Method(method) => trait_method(syntax, method),
        TraitItem::Other(other) => trait_item((**other).clone()),
    });
    quote! {
        #(#attributes)*
        #visibility #unsafety trait #name #generics: #(#supertraits +)* ::core::marker::Send + ::core::marker::Sync + 'static
        #where_clause
        {
            #(#items)*
        }
    }
}

fn trait_item(mut item: syn::TraitItem) -> TokenStream {
    let attributes = match &mut item {
        syn::TraitItem::Const(item) => &mut item.attrs,
        syn::TraitItem::Type(item) => &mut item.attrs,
        syn::TraitItem::Macro(item) => &mut item.attrs,
        _ => return item.into_token_stream(),
    };
    *attributes = without_ours(attributes);
    item.into_token_stream()
}

fn trait_method(syntax: &ServiceTrait, method: &TraitMethod) -> TokenStream {
    let attributes = without_ours(&method.attributes);
    let signature = signature(syntax, method);
    let body = match &method.body {
        Some(body) if is_future(method) => quote_spanned!(body.span()=> { async move #body }),
        Some(body) => body.to_token_stream(),
        None => quote!(;),
    };
    quote!(#(#attributes)* #signature #body)
}

/// The signature without what the compiler refuses in a trait, and with a future in place of
/// `async` if [`is_future`] says so.
fn signature(syntax: &ServiceTrait, method: &TraitMethod) -> Signature {
    let mut signature = method.signature.clone();
    signature.constness = None;
    signature.variadic = None;
    for input in &mut signature.inputs {
        match input {
            FnArg::Receiver(receiver) => receiver.attrs.clear(),
            FnArg::Typed(parameter) => {
                parameter.attrs.clear();
                // Only a method with a body may have patterns.
                if method.body.is_none() && plain_name(&parameter.pat).is_none() {
                    parameter.pat = parse_quote!(_);
                }
            }
        }
    }
    if is_future(method) {
        signature.asyncness = None;
        signature.output = future_of(syntax, &signature.output);
    }
    signature
}

/// The return type with a future of what an `async` method returns.
fn future_of(syntax: &ServiceTrait, output: &ReturnType) -> ReturnType {
    let output = match output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    let at_output = Span::call_site().located_at(output.span());
    // A future that holds a value of an unbounded type may not be `Send`.
    let is_send = syntax.unbounded_parameters().next().is_none();
    let send = is_send.then(|| quote_spanned!(at_output=> + ::core::marker::Send));
    parse_quote_spanned!(at_output=> -> impl ::core::future::Future<Output = #output> #send)
}

/// Whether a method is emitted as one that returns a future. The compiler accepts `!` as
/// the return type of a function, but not as the output of a future.
fn is_future(method: &TraitMethod) -> bool {
    let returns_never = matches!(&method.signature.output, ReturnType::Type(_, ty) if is_never(ty));
    method.signature.asyncness.is_some() && !returns_never
}

/// The attributes without `#[rpc]`, and without each `#[cfg_attr(..)]` that contains `rpc` or
/// `service`.
fn without_ours(attributes: &[Attribute]) -> Vec<Attribute> {
    let is_ours = |attribute: &Attribute| {
        is_rpc(attribute) || find_in_cfg_attr(attribute, &["rpc", "service"]).is_some()
    };
    attributes
        .iter()
        .filter(|attribute| !is_ours(attribute))
        .cloned()
        .collect()
}

/// The implementation for an `Arc`, or `None` if a bound mentions `Self` or if [`arc_item`] cannot
/// implement all items.
pub(super) fn implementation_for_arc(syntax: &ServiceTrait, arc: &TokenStream) -> Option<TokenStream> {
    let ServiceTrait {
        name,
        unsafety,
        generics,
        supertraits,
        ..
    } = syntax;
    if mentions_self(generics) || mentions_self(&generics.where_clause) {
        return None;
    }
    let items = syntax
        .items
        .iter()
        .map(|item| arc_item(syntax, item))
        .collect::<Option<Vec<_>>>()?;
    let implementation = implementation();
    let (_, arguments, _) = generics.split_for_impl();
    let mut generics = generics.clone();
    remove_defaults(&mut generics);
    generics
        .params
        .push(parse_quote!(#implementation: #name #arguments));
    if !supertraits.is_empty() {
        let bound = parse_quote!(Self: #supertraits);
        generics.make_where_clause().predicates.push(bound);
    }
    let (parameters, _, where_clause) = generics.split_for_impl();
    Some(quote! {
        #unsafety impl #parameters #name #arguments for #arc<#implementation> #where_clause {
            #(#items)*
        }
    })
}

/// An item of the implementation for an `Arc`, or `None` if there can be no stub for it.
fn arc_item(syntax: &ServiceTrait, item: &TraitItem) -> Option<TokenStream> {
    let implementation = implementation();
    let (name, (_, arguments, _)) = (&syntax.name, syntax.generics.split_for_impl());
    match item {
        TraitItem::Method(method) => arc_method(syntax, method),
        TraitItem::Other(other) => match &**other {
            syn::TraitItem::Const(constant) => {
                let syn::TraitItemConst { ident, ty, .. } = constant;
                let cfg = Attributes::new(&constant.attrs).cfg();
                Some(quote!(#(#cfg)* const #ident: #ty = <#implementation as #name #arguments>::#ident;))
            }
            syn::TraitItem::Type(ty) if ty.generics.params.is_empty() => {
                let ident = &ty.ident;
                let cfg = Attributes::new(&ty.attrs).cfg();
                Some(quote!(#(#cfg)* type #ident = <#implementation as #name #arguments>::#ident;))
            }
            _ => None,
        },
    }
}

fn arc_method(syntax: &ServiceTrait, method: &TraitMethod) -> Option<TokenStream> {
    if method.body.is_some() {
        // The default body is enough.
        return Some(TokenStream::new());
    }
    // A stub never returns, so it names no type for an `impl Trait`.
    if mentions(method.signature.output.to_token_stream(), "impl") {
        return None;
    }
    let cfg = Attributes::new(&method.attributes).cfg();
    let mut signature = signature(syntax, method);
    for input in &mut signature.inputs {
        if let FnArg::Typed(parameter) = input {
            parameter.pat = parse_quote!(_);
        }
    }
    let unimplemented = quote!(::core::unimplemented!());
    let body = if is_future(method) {
        quote!(async move { #unimplemented })
    } else {
        unimplemented
    };
    Some(quote!(#(#cfg)* #signature { #body }))
}
