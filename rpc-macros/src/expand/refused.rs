//! What is emitted for an item that was refused.
//!
//! The item is emitted again. If it is a trait, stubs of its client and server are emitted too.
//! Without them, everything that mentions the client or the server would be an error, and hide the
//! reasons for the refusal.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt;
use syn::visit_mut::{self, VisitMut};
use syn::{Generics, Ident, Lifetime, LifetimeParam, LitStr, Type, TypeReference, parse_quote};

use super::generics::remove_bounds_with_self;
use super::service::in_unnamed_constant;
use super::{client, descriptor, refused_trait, server};
use crate::model::{Method, Parameter, Refusal, RefusedItem, RefusedTrait, Service, is_function_of_client};
use crate::syntax::{begins_with_self, is_never};

/// Expands a refusal: the reasons, and the item for everything that depends on it.
pub(crate) fn refusal(refusal: Refusal) -> TokenStream {
    let reasons = refusal.reasons.into_compile_error();
    let item = match refusal.item {
        RefusedItem::Trait(refused) => trait_with_stubs(*refused),
        RefusedItem::Other(item) => without_rpc(item),
    };
    quote!(#reasons #item)
}

/// The tokens without `#[rpc(..)]`, which would be an unknown attribute.
fn without_rpc(tokens: TokenStream) -> TokenStream {
    let mut kept = Vec::<TokenTree>::new();
    for token in tokens {
        let is_after_pound = matches!(kept.last(), Some(TokenTree::Punct(punct)) if punct.as_char() == '#');
        match token {
            TokenTree::Group(group) if is_after_pound && is_rpc_in_brackets(&group) => {
                // The `#`.
                kept.pop();
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without_rpc(group.stream()));
                inner.set_span(group.span());
                kept.push(inner.into());
            }
            other => kept.push(other),
        }
    }
    kept.into_iter().collect()
}

/// Whether this is what follows the `#` of an `#[rpc]` or `#[rpc(..)]`.
fn is_rpc_in_brackets(group: &Group) -> bool {
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket && matches!(first, Some(TokenTree::Ident(name)) if name == "rpc")
}

/// The trait, as far as the compiler accepts it, with stubs of its client and server. They have the
/// items that other code can name, so that such code is not reported too.
fn trait_with_stubs(RefusedTrait { syntax, service }: RefusedTrait) -> TokenStream {
    let own_generics = syntax.methods().map(|method| &method.signature.generics);
    let methods = service.methods.iter().zip(own_generics).enumerate();
    let lifetimes = Lifetimes::of_trait(&service.generics);
    let stub = Service {
        // The user's queue name may be faulty, and nothing uses the stubs at run time.
        queue: LitStr::new(&service.unraw_name(), service.name.span()),
        // The types may be faulty too, and would be reported again for having no schema.
        schema: None,
        generics: stub_generics(&service.generics, &lifetimes),
        // The stub of the server dispatches to no method, and needs no descriptors of methods. The
        // client gets the functions in `client_methods` instead.
        methods: Vec::new(),
        runtime: service.runtime.clone(),
        attributes: service.attributes.clone(),
        visibility: service.visibility.clone(),
        name: service.name.clone(),
        supertraits: service.supertraits.clone(),
    };
    let client_methods: Vec<_> = methods
        .filter(|(index, (method, _))| has_stub(method, &service.methods[..*index]))
        .map(|(_, (method, generics))| stub_method(&stub, method, generics, &lifetimes))
        .collect();

    let definition = refused_trait::definition(&syntax);
    let (client, server) = (client::definition(&stub), server::definition(&stub));
    let runtime = &stub.runtime;
    // Other code may serve or call an implementation in an `Arc`.
    let arc = refused_trait::implementation_for_arc(&syntax, &quote!(#runtime::__private::Arc));
    let descriptors = descriptor::constants(&stub);
    let client_impls = client::implementations(&stub, &client_methods);
    let server_impls = server::implementations(&stub);
    // This takes the service, because the stub has no methods: their attributes decide which lints
    // are allowed.
    let implementations = in_unnamed_constant(
        &service,
        &quote! {
            #descriptors
            #arc
            #client_impls
            #server_impls
        },
    );
    quote! {
        #definition
        #client
        #server
        #implementations
    }
}

/// Whether the client gets a stub of this method. Its name may be taken, by the client's own
/// functions or by an earlier method. Two methods with conditions may share a name.
fn has_stub(method: &Method, earlier: &[Method]) -> bool {
    let takes_name = |other: &Method| {
        other.name == method.name && !other.attributes.may_be_alternatives(&method.attributes)
    };
    !earlier.iter().any(takes_name) && !is_function_of_client(&method.name.unraw())
}

/// The client's stub of a method, whose types are changed to ones that the client can have.
fn stub_method(
    service: &Service,
    method: &Method,
    generics: &Generics,
    lifetimes: &Lifetimes,
) -> TokenStream {
    let parameters = method.parameters.iter().map(|parameter| {
        let mut parameter = parameter.clone();
        if let Parameter::Argument(argument) = &mut parameter {
            ArgumentStub { lifetimes }.visit_type_mut(&mut argument.ty);
        }
        if let Parameter::Incoming { item, .. } = &mut parameter {
            OutputStub.visit_type_mut(item);
        }
        parameter
    });
    let mut output = method.output.clone();
    OutputStub.visit_type_mut(&mut output);
    let method = Method {
        parameters: parameters.collect(),
        output,
        ..method.clone()
    };
    client::stub_method(service, &method, &method_generics(generics, lifetimes))
}

/// The lifetimes that are parameters of the trait. The client has none.
struct Lifetimes(Vec<Ident>);

impl Lifetimes {
    fn of_trait(generics: &Generics) -> Self {
        let lifetimes = generics.lifetimes();
        Self(
            lifetimes
                .map(|parameter| parameter.lifetime.ident.clone())
                .collect(),
        )
    }

    fn contains(&self, lifetime: &Lifetime) -> bool {
        self.0.contains(&lifetime.ident)
    }
}

/// The trait's parameters as the stubs have them. Types are `'static`, as the server has to be, and
/// so are the trait's lifetimes in bounds.
fn stub_generics(generics: &Generics, lifetimes: &Lifetimes) -> Generics {
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.colon_token.get_or_insert_default();
        parameter.bounds.push(parse_quote!('static));
    }
    StaticLifetimes { lifetimes }.visit_generics_mut(&mut generics);
    generics
}

/// A method's own parameters, as its stub has them.
fn method_generics(generics: &Generics, lifetimes: &Lifetimes) -> Generics {
    let mut generics = generics.clone();
    remove_bounds_with_self(&mut generics);
    StaticLifetimes { lifetimes }.visit_generics_mut(&mut generics);
    generics
}

/// Replaces the trait's lifetimes in bounds by `'static`.
struct StaticLifetimes<'a> {
    lifetimes: &'a Lifetimes,
}

impl VisitMut for StaticLifetimes<'_> {
    fn visit_lifetime_param_mut(&mut self, parameter: &mut LifetimeParam) {
        // The name stays: `generics::with_bounds` removes the trait's own, and a method keeps its.
        for bound in &mut parameter.bounds {
            self.visit_lifetime_mut(bound);
        }
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if self.lifetimes.contains(lifetime) {
            *lifetime = Lifetime::new("'static", lifetime.span());
        }
    }
}

/// Replaces what the client's method cannot take: types that begin with `Self`, and the trait's
/// lifetimes.
struct ArgumentStub<'a> {
    lifetimes: &'a Lifetimes,
}

impl VisitMut for ArgumentStub<'_> {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if begins_with_self(ty) {
            *ty = parse_quote!(impl ::core::marker::Sized);
        } else {
            visit_mut::visit_type_mut(self, ty);
        }
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if self.lifetimes.contains(lifetime) {
            *lifetime = Lifetime::new("'_", lifetime.span());
        }
    }
}

/// Replaces what a call cannot return, or a caller's stream yield: `Self`, `impl Trait`, `!`, and
/// lifetimes.
struct OutputStub;

impl VisitMut for OutputStub {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if begins_with_self(ty) || matches!(ty, Type::ImplTrait(_)) {
            *ty = parse_quote!(());
        } else if is_never(ty) {
            *ty = parse_quote!(::core::convert::Infallible);
        } else {
            visit_mut::visit_type_mut(self, ty);
        }
    }

    fn visit_type_reference_mut(&mut self, reference: &mut TypeReference) {
        reference.lifetime.get_or_insert_with(|| parse_quote!('static));
        visit_mut::visit_type_reference_mut(self, reference);
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        *lifetime = Lifetime::new("'static", lifetime.span());
    }
}
