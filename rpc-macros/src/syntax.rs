//! The syntax of a service trait.
//!
//! Bodies of methods are kept as tokens: the compiler reads them, and it may know syntax that syn
//! does not.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{
    AttrStyle, Attribute, Generics, Ident, LitStr, Pat, Path, Signature, Token, Type, TypeParam,
    TypeParamBound, TypePath, Visibility, braced, token,
};

/// An item with the attribute `#[service]`.
pub(crate) enum Item {
    Trait(Box<ServiceTrait>),
    Other(Box<syn::Item>),
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let ahead = input.fork();
        let is_trait = Header::parse(&ahead).is_ok() && ahead.peek(Token![trait]);
        if is_trait {
            input.parse().map(Self::Trait)
        } else {
            input.parse().map(Self::Other)
        }
    }
}

/// What is written before the keyword `trait`.
struct Header {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    unsafety: Option<Token![unsafe]>,
    auto_token: Option<Token![auto]>,
}

impl Parse for Header {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Ok(Self {
            attributes: input.call(Attribute::parse_outer)?,
            visibility: input.parse()?,
            unsafety: input.parse()?,
            auto_token: input.parse()?,
        })
    }
}

#[derive(Clone)]
pub(crate) struct ServiceTrait {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) unsafety: Option<Token![unsafe]>,
    pub(crate) auto_token: Option<Token![auto]>,
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) supertraits: Punctuated<TypeParamBound, Token![+]>,
    pub(crate) items: Vec<TraitItem>,
}

impl Parse for ServiceTrait {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let header: Header = input.parse()?;
        input.parse::<Token![trait]>()?;
        let name = input.parse()?;
        let mut generics: Generics = input.parse()?;
        let supertraits = parse_supertraits(input)?;
        generics.where_clause = input.parse()?;
        let content;
        braced!(content in input);
        let mut attributes = header.attributes;
        attributes.extend(parse_inner_attributes(&content)?);
        let mut items = Vec::new();
        while !content.is_empty() {
            items.push(content.parse()?);
        }
        Ok(Self {
            attributes,
            visibility: header.visibility,
            unsafety: header.unsafety,
            auto_token: header.auto_token,
            name,
            generics,
            supertraits,
            items,
        })
    }
}

impl ServiceTrait {
    pub(crate) fn methods(&self) -> impl Iterator<Item = &TraitMethod> {
        self.items.iter().filter_map(|item| match item {
            TraitItem::Method(method) => Some(&**method),
            TraitItem::Other(_) => None,
        })
    }

    /// The type parameters that have no bound and that the `where` clause does not mention.
    pub(crate) fn unbounded_parameters(&self) -> impl Iterator<Item = &TypeParam> {
        let predicates = self.generics.where_clause.to_token_stream();
        self.generics.type_params().filter(move |parameter| {
            parameter.bounds.is_empty() && !mentions(predicates.clone(), &parameter.ident)
        })
    }
}

fn parse_supertraits(input: ParseStream<'_>) -> syn::Result<Punctuated<TypeParamBound, Token![+]>> {
    let mut supertraits = Punctuated::new();
    if input.parse::<Option<Token![:]>>()?.is_none() {
        return Ok(supertraits);
    }
    while !input.peek(Token![where]) && !input.peek(token::Brace) {
        supertraits.push_value(input.parse()?);
        if !input.peek(Token![+]) {
            break;
        }
        supertraits.push_punct(input.parse()?);
    }
    Ok(supertraits)
}

#[derive(Clone)]
pub(crate) enum TraitItem {
    Method(Box<TraitMethod>),
    Other(Box<syn::TraitItem>),
}

impl Parse for TraitItem {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if is_method(&input.fork())? {
            input.parse().map(Self::Method)
        } else {
            input.parse().map(Self::Other)
        }
    }
}

/// Whether the next item is a function. Consumes what is before `fn`, so it takes a fork.
fn is_method(input: ParseStream<'_>) -> syn::Result<bool> {
    input.call(Attribute::parse_outer)?;
    input.parse::<Visibility>()?;
    input.parse::<Option<Token![default]>>()?;
    input.parse::<Option<Token![const]>>()?;
    input.parse::<Option<Token![async]>>()?;
    input.parse::<Option<Token![unsafe]>>()?;
    if input.parse::<Option<Token![extern]>>()?.is_some() {
        input.parse::<Option<LitStr>>()?;
    }
    Ok(input.peek(Token![fn]))
}

#[derive(Clone)]
pub(crate) struct TraitMethod {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) defaultness: Option<Token![default]>,
    pub(crate) signature: Signature,
    pub(crate) body: Option<Group>,
    semicolon: Option<Token![;]>,
}

impl Parse for TraitMethod {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let defaultness = input.parse()?;
        let signature = input.parse()?;
        let semicolon: Option<_> = input.parse()?;
        let body = match semicolon {
            Some(_) => None,
            None => Some(parse_body(input, &mut attributes)?),
        };
        Ok(Self {
            attributes,
            visibility,
            defaultness,
            signature,
            body,
            semicolon,
        })
    }
}

impl ToTokens for TraitMethod {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.attributes
            .iter()
            .for_each(|attribute| attribute.to_tokens(tokens));
        self.visibility.to_tokens(tokens);
        self.defaultness.to_tokens(tokens);
        self.signature.to_tokens(tokens);
        self.body.to_tokens(tokens);
        self.semicolon.to_tokens(tokens);
    }
}

/// Reads a body. Moves its inner attributes to those of the method: generated code makes the body
/// a block expression, which cannot have any.
fn parse_body(input: ParseStream<'_>, attributes: &mut Vec<Attribute>) -> syn::Result<Group> {
    if !input.peek(token::Brace) {
        return Err(input.error("expected `;` or a body in braces"));
    }
    let body = match input.parse()? {
        TokenTree::Group(group) => without_invisible_delimiters(group),
        other => return Err(syn::Error::new_spanned(other, "expected a body in braces")),
    };
    let split = |input: ParseStream<'_>| Ok((parse_inner_attributes(input)?, input.parse::<TokenStream>()?));
    let (inner, statements) = split.parse2(body.stream())?;
    if inner.is_empty() {
        return Ok(body);
    }
    attributes.extend(inner);
    let mut without_attributes = Group::new(Delimiter::Brace, statements);
    without_attributes.set_span(body.span());
    Ok(without_attributes)
}

/// The block in the invisible group that `macro_rules!` puts around a `$body:block`. Returns any
/// other group as it is.
fn without_invisible_delimiters(group: Group) -> Group {
    if group.delimiter() == Delimiter::None
        && let Some(TokenTree::Group(inner)) = group.stream().into_iter().next()
    {
        return without_invisible_delimiters(inner);
    }
    group
}

/// Reads inner attributes, and makes them outer ones.
fn parse_inner_attributes(input: ParseStream<'_>) -> syn::Result<Vec<Attribute>> {
    let mut attributes = input.call(Attribute::parse_inner)?;
    for attribute in &mut attributes {
        attribute.style = AttrStyle::Outer;
    }
    Ok(attributes)
}

/// The name that a pattern consists of, or `None` if it is anything else, such as `mut name`.
pub(crate) fn plain_name(pattern: &Pat) -> Option<&Ident> {
    match pattern {
        Pat::Ident(name) if name.by_ref.is_none() && name.mutability.is_none() && name.subpat.is_none() => {
            Some(&name.ident)
        }
        _ => None,
    }
}

/// The type without parentheses and without the invisible group that `macro_rules!` puts around a
/// `$ty`.
pub(crate) fn bare_type(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare_type(&group.elem),
        Type::Paren(paren) => bare_type(&paren.elem),
        _ => ty,
    }
}

/// Whether the type is `!`.
pub(crate) fn is_never(ty: &Type) -> bool {
    matches!(bare_type(ty), Type::Never(_))
}

/// Whether the type is `Self` or an item of it, such as `Self::Item`.
pub(crate) fn begins_with_self(ty: &Type) -> bool {
    match bare_type(ty) {
        Type::Path(TypePath {
            qself: Some(qself), ..
        }) => begins_with_self(&qself.ty),
        Type::Path(TypePath { path, .. }) => {
            let first = path.segments.first();
            first.is_some_and(|first| first.ident == "Self")
        }
        _ => false,
    }
}

/// Whether the name is anywhere among the tokens.
pub(crate) fn mentions<N: ?Sized>(tokens: TokenStream, name: &N) -> bool
where
    Ident: PartialEq<N>,
{
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => mentions(group.stream(), name),
        TokenTree::Ident(ident) => ident == *name,
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// Whether `Self` is anywhere in this syntax.
pub(crate) fn mentions_self(syntax: &impl ToTokens) -> bool {
    mentions(syntax.to_token_stream(), "Self")
}

/// Whether the path is one to an item of this name, as `std::io::Result` is for `Result`.
pub(crate) fn ends_with(path: &Path, name: &str) -> bool {
    path.segments.last().is_some_and(|last| last.ident == name)
}
