//! Reads a service: the arguments of `#[service(..)]` and the trait.
//!
//! Readers report what is wrong and continue with what they could read, so that one compilation
//! shows as many errors as possible. Only an item that is no trait, or cannot be parsed, is refused
//! at once.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{Attribute, Generics, LitStr, Type, Visibility, parse_quote};

use super::errors::Errors;
use super::options::Options;
use super::placement::{refuse_conditional_options, refuse_rpc};
use super::{method, names, values};
use crate::attributes::Attributes;
use crate::model::{Method, Refusal, RefusedItem, RefusedTrait, Service};
use crate::syntax::{Item, ServiceTrait, TraitItem, TraitMethod, mentions_self};

/// Reads the arguments of `#[service(..)]` and the item below it. Returns a [`Refusal`] if anything
/// is wrong with them.
pub(crate) fn service(arguments: TokenStream, item: TokenStream) -> Result<Service, Refusal> {
    let syntax = match syn::parse2(item.clone()) {
        Ok(Item::Trait(syntax)) => syntax,
        Ok(Item::Other(other)) => return Err(refusal_of_other(not_a_trait(&other), item)),
        Err(error) => return Err(refusal_of_other(error, item)),
    };
    let mut errors = Errors::default();
    let service = read_service(arguments, &syntax, &mut errors);
    match errors.combine() {
        None => Ok(service),
        Some(reasons) => {
            let item = RefusedItem::Trait(Box::new(RefusedTrait { syntax, service }));
            Err(Refusal { reasons, item })
        }
    }
}

fn refusal_of_other(reasons: syn::Error, item: TokenStream) -> Refusal {
    let item = RefusedItem::Other(item);
    Refusal { reasons, item }
}

fn not_a_trait(item: &syn::Item) -> syn::Error {
    let message = match item {
        // mockall repeats the trait's attributes on the items that it generates.
        _ if is_mock(item) => {
            "`#[service]` goes above `#[automock]`: mockall has to see the trait that `#[service]` emits"
        }
        syn::Item::Impl(_) => {
            "`#[service]` goes on the trait; an implementation needs no attribute, so remove this one"
        }
        _ => "`#[service]` goes on a trait; write the service's methods as a `trait`",
    };
    syn::Error::new_spanned(item, message)
}

/// Whether mockall probably generated this item from a trait: it is named like `MockStore`.
fn is_mock(item: &syn::Item) -> bool {
    let name = match item {
        syn::Item::Struct(item) => Some(&item.ident),
        syn::Item::Impl(item) => match &*item.self_ty {
            Type::Path(path) => path.path.segments.last().map(|last| &last.ident),
            _ => None,
        },
        _ => None,
    };
    name.is_some_and(|name| {
        let name = name.to_string();
        let mocked = name.strip_prefix("Mock");
        mocked.is_some_and(|mocked| mocked.starts_with(char::is_uppercase))
    })
}

fn read_service(arguments: TokenStream, item: &ServiceTrait, errors: &mut Errors) -> Service {
    let options = Options::of_service(arguments, errors);
    let runtime = options.path("crate", errors).cloned();
    if let Some(runtime) = &runtime {
        names::refuse_reserved_path(runtime, errors);
    }
    let queue = read_queue(&options, item, errors);
    let schema = options.flag("schema", errors).cloned();
    refuse_trait_syntax(item, errors);
    names::refuse_reserved(item, errors);
    Service {
        runtime: runtime.unwrap_or_else(|| parse_quote!(::rpc_runtime)),
        queue,
        schema,
        attributes: Attributes::new(&item.attributes),
        visibility: item.visibility.clone(),
        name: item.name.clone(),
        generics: item.generics.clone(),
        supertraits: item.supertraits.clone(),
        methods: read_methods(&item.items, errors),
    }
}

fn read_queue(options: &Options, item: &ServiceTrait, errors: &mut Errors) -> LitStr {
    let queue = match options.text("queue", errors) {
        Some(queue) => queue.clone(),
        None => LitStr::new(&item.name.unraw().to_string(), item.name.span()),
    };
    if let Some(message) = values::queue_name_refusal(&queue.value()) {
        errors.push(&queue, message);
    }
    queue
}

/// Refuses attributes, keywords and generics that a service trait cannot have.
fn refuse_trait_syntax(item: &ServiceTrait, errors: &mut Errors) {
    let ServiceTrait {
        attributes,
        auto_token,
        unsafety,
        generics,
        ..
    } = item;
    refuse_rpc(
        attributes,
        "`#[rpc]` goes on methods; write options of the whole service as `#[service(..)]`",
        errors,
    );
    refuse_conditional_options(attributes, "trait", errors);
    if let Some(auto) = auto_token {
        errors.push(auto, "a service trait cannot be an auto trait; remove `auto`");
    }
    if let Some(unsafety) = unsafety {
        errors.push(unsafety, "a service trait cannot be unsafe; remove `unsafe`");
    }
    refuse_generics(generics, errors);
    refuse_unbounded(item, errors);
}

/// Refuses lifetimes, and bounds that mention `Self`.
fn refuse_generics(generics: &Generics, errors: &mut Errors) {
    for lifetime in generics.lifetimes() {
        errors.push(
            lifetime,
            "lifetimes have no meaning across the network; remove this one",
        );
    }
    for parameter in generics.type_params() {
        parameter
            .bounds
            .iter()
            .for_each(|bound| refuse_bound_on_self(bound, errors));
    }
    for predicate in generics.where_clause.iter().flat_map(|clause| &clause.predicates) {
        refuse_bound_on_self(predicate, errors);
    }
}

/// Refuses type parameters without any bound. A type that is sent has to be `Serialize` and more,
/// and any other type parameter has to be `'static`. The compiler checks whether bounds suffice.
fn refuse_unbounded(item: &ServiceTrait, errors: &mut Errors) {
    for parameter in item.unbounded_parameters() {
        let name = &parameter.ident;
        let bounds = "serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static";
        let message = format!("client and server have to send values of this type; write `{name}: {bounds}`");
        errors.push(name, message);
    }
}

/// Refuses a bound that mentions `Self`, which is the implementation. In the client and the server,
/// `Self` would be another type.
fn refuse_bound_on_self(bound: &impl ToTokens, errors: &mut Errors) {
    if mentions_self(bound) {
        errors.push(
            bound,
            "a bound on `Self` does not apply to the client; write it as a supertrait",
        );
    }
}

fn read_methods(items: &[TraitItem], errors: &mut Errors) -> Vec<Method> {
    let mut methods = Vec::new();
    for item in items {
        match item {
            TraitItem::Method(item) => {
                if !is_plain(item) {
                    errors.push(item, NOT_A_PLAIN_METHOD);
                }
                methods.push(method::read(item, &methods, errors));
            }
            TraitItem::Other(other) => refuse_item(other, errors),
        }
    }
    methods
}

/// Whether a method has neither a visibility nor `default`, which the compiler refuses in a trait.
fn is_plain(method: &TraitMethod) -> bool {
    matches!(method.visibility, Visibility::Inherited) && method.defaultness.is_none()
}

const NOT_A_PLAIN_METHOD: &str = "a service has plain methods only; write `async fn name(&self)`";

/// Refuses an item of the trait that is no method.
fn refuse_item(item: &syn::TraitItem, errors: &mut Errors) {
    let mut refuse = |attributes: &[Attribute], message: &str| {
        refuse_rpc(attributes, "`#[rpc]` goes on methods; remove it here", errors);
        errors.push(item, message);
    };
    match item {
        syn::TraitItem::Const(constant) => refuse(
            &constant.attrs,
            "a service has no constants; return the value from a method",
        ),
        syn::TraitItem::Type(ty) => refuse(
            &ty.attrs,
            "a service has no associated types; name the type in the methods",
        ),
        syn::TraitItem::Macro(invocation) => refuse(
            &invocation.attrs,
            "macros are not expanded in a service trait; write the methods out",
        ),
        _ => refuse(&[], NOT_A_PLAIN_METHOD),
    }
}
