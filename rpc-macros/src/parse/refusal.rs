//! What is emitted for a trait that was refused.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, FnArg, ItemTrait, ReturnType, TraitItem, TraitItemFn, TypeParamBound, parse_quote};

use super::parameter::plain_name;
use super::types;
use crate::attributes::{behind_condition, is_rpc};

/// The reasons, and the item they are about.
///
/// The item is emitted again beside the reasons: without it, everything that mentions the trait would be an error too.
pub(crate) struct Refusal {
    pub(crate) reasons: syn::Error,
    item: TokenStream,
}

impl Refusal {
    /// Refuses an item that is no trait.
    pub(super) fn of_item(reasons: syn::Error, item: impl ToTokens) -> Self {
        Self {
            reasons,
            item: item.into_token_stream(),
        }
    }

    /// Refuses a trait.
    pub(super) fn of_trait(reasons: syn::Error, item: ItemTrait) -> Self {
        Self {
            reasons,
            item: implementable(item).into_token_stream(),
        }
    }

    pub(crate) fn into_tokens(self) -> TokenStream {
        let Self { reasons, item } = self;
        let reasons = reasons.into_compile_error();
        quote!(#reasons #item)
    }
}

/// The trait as its implementations expect it: without our attributes, with futures that are `Send`.
fn implementable(mut item: ItemTrait) -> ItemTrait {
    strip(&mut item.attrs);
    // A default body that uses `self` is `Send` only with these.
    item.colon_token.get_or_insert_default();
    item.supertraits.extend::<[TypeParamBound; 3]>([
        parse_quote!(::core::marker::Send),
        parse_quote!(::core::marker::Sync),
        parse_quote!('static),
    ]);
    for item in &mut item.items {
        match item {
            TraitItem::Fn(method) => {
                strip(&mut method.attrs);
                for input in &mut method.sig.inputs {
                    match input {
                        FnArg::Receiver(receiver) => strip(&mut receiver.attrs),
                        FnArg::Typed(parameter) => {
                            parameter.attrs.clear();
                            // The compiler would have its own word on a pattern.
                            if method.default.is_none() && plain_name(&parameter.pat).is_none() {
                                parameter.pat = parse_quote!(_);
                            }
                        }
                    }
                }
                promise_send(method);
            }
            TraitItem::Const(constant) => strip(&mut constant.attrs),
            TraitItem::Type(ty) => strip(&mut ty.attrs),
            TraitItem::Macro(invocation) => strip(&mut invocation.attrs),
            _ => {}
        }
    }
    item
}

fn strip(attributes: &mut Vec<Attribute>) {
    let is_ours = |attribute: &Attribute| {
        is_rpc(attribute) || behind_condition(attribute, &["rpc", "service"]).is_some()
    };
    attributes.retain(|attribute| !is_ours(attribute));
}

fn promise_send(method: &mut TraitItemFn) {
    let signature = &mut method.sig;
    // The compiler lets `!` be returned, and nowhere else be named.
    if types::returns_never(&signature.output) || signature.asyncness.take().is_none() {
        return;
    }
    if let Some(body) = &mut method.default {
        *body = parse_quote!({ async move #body });
    }
    let output = match &signature.output {
        ReturnType::Default => parse_quote!(()),
        ReturnType::Type(_, ty) => ty.clone(),
    };
    signature.output = parse_quote!(-> impl ::core::future::Future<Output = #output> + ::core::marker::Send);
}
