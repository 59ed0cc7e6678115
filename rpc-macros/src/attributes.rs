//! The user's attributes on the trait or on a method, and which of them generated items repeat.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, ExprMacro, Ident, Lit, Meta, Token, parse_quote};

use crate::syntax::ends_with;

/// The attributes of the trait or of one method, without `#[rpc(..)]`.
///
/// `#[cfg_attr(predicate, a, b)]` counts as an `a` and a `b`, each under its condition. An `rpc` in
/// there is kept, but the parser refuses it.
#[derive(Clone)]
pub(crate) struct Attributes(Vec<ConditionalAttribute>);

impl Attributes {
    pub(crate) fn new(written: &[Attribute]) -> Self {
        let kept = written.iter().filter(|attribute| !is_rpc(attribute));
        Self(kept.flat_map(ConditionalAttribute::flatten).collect())
    }

    /// All attributes, for the user's own item.
    pub(crate) fn all(&self) -> Vec<Attribute> {
        self.0.iter().map(ConditionalAttribute::to_attribute).collect()
    }

    /// The `#[cfg(..)]` of the item. Everything generated for it has the same.
    pub(crate) fn cfg(&self) -> Vec<Attribute> {
        self.named(&["cfg"])
    }

    /// Whether two methods may be alternatives, of which one is compiled: both have conditions.
    /// If both are compiled, generated code makes the compiler refuse them.
    pub(crate) fn may_be_alternatives(&self, other: &Self) -> bool {
        !self.cfg().is_empty() && !other.cfg().is_empty()
    }

    pub(crate) fn docs(&self) -> Vec<Attribute> {
        self.named(&["doc"])
    }

    /// Whether there is documentation that is not under a condition. Settings such as
    /// `#[doc(alias = "..")]` do not count.
    pub(crate) fn is_documented(&self) -> bool {
        self.iter_named(&["doc"])
            .any(|doc| doc.conditions.is_empty() && matches!(doc.attribute.meta, Meta::NameValue(_)))
    }

    /// `#[doc(hidden)]`, if it is there, without other settings beside `hidden`.
    pub(crate) fn hidden(&self) -> Vec<Attribute> {
        self.iter_named(&["doc"])
            .filter(|doc| lists(&doc.attribute, "hidden"))
            .map(|doc| {
                let mut only_hidden = doc.clone();
                only_hidden.attribute.meta = parse_quote!(doc(hidden));
                only_hidden.to_attribute()
            })
            .collect()
    }

    pub(crate) fn deprecated(&self) -> Vec<Attribute> {
        self.named(&["deprecated"])
    }

    /// Whether the item is deprecated, or an `allow` or `expect` on it names the lint `deprecated`.
    pub(crate) fn mentions_deprecation(&self) -> bool {
        let mut lints = self.iter_named(&["allow", "expect"]);
        !self.deprecated().is_empty() || lints.any(|lint| lists(&lint.attribute, "deprecated"))
    }

    pub(crate) fn must_use(&self) -> Vec<Attribute> {
        self.named(&["must_use"])
    }

    /// The lints that the user allows. An `expect` becomes an `allow`: the compiler would warn of
    /// an `expect` on a generated item that does not trigger the lint.
    pub(crate) fn lints(&self) -> Vec<Attribute> {
        let mut lints: Vec<_> = self.iter_named(&["allow", "expect"]).cloned().collect();
        for lint in &mut lints {
            if let Meta::List(list) = &mut lint.attribute.meta {
                list.path = Ident::new("allow", list.path.segments[0].ident.span()).into();
            }
        }
        lints.iter().map(ConditionalAttribute::to_attribute).collect()
    }

    /// The text of each doc attribute, without those under a condition.
    pub(crate) fn doc_lines(&self) -> Vec<DocLine> {
        self.iter_named(&["doc"])
            .filter(|doc| doc.conditions.is_empty())
            .filter_map(|doc| doc_line(&doc.attribute))
            .collect()
    }

    fn named(&self, names: &[&str]) -> Vec<Attribute> {
        self.iter_named(names)
            .map(ConditionalAttribute::to_attribute)
            .collect()
    }

    fn iter_named(&self, names: &[&str]) -> impl Iterator<Item = &ConditionalAttribute> {
        let is_named = move |attribute: &&ConditionalAttribute| {
            names.iter().any(|name| attribute.attribute.path().is_ident(name))
        };
        self.0.iter().filter(is_named)
    }
}

/// Whether the attribute lists this name, as `#[doc(hidden, alias = "x")]` does `hidden`. False for
/// a malformed one, which the compiler reports.
fn lists(attribute: &Attribute, name: &str) -> bool {
    let entries = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    let mut entries = entries.into_iter().flatten();
    entries.any(|entry| matches!(entry, Meta::Path(path) if path.is_ident(name)))
}

/// The text of one doc attribute: a line, or all lines of a block comment.
pub(crate) enum DocLine {
    /// A string.
    Text(String),
    /// A macro such as `include_str!`, which only the compiler can expand.
    Macro(ExprMacro),
}

impl ToTokens for DocLine {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Text(text) => text.to_tokens(tokens),
            Self::Macro(invocation) => invocation.to_tokens(tokens),
        }
    }
}

/// An attribute and the `cfg_attr` predicates around it.
#[derive(Clone)]
struct ConditionalAttribute {
    /// Innermost first.
    conditions: Vec<TokenStream>,
    attribute: Attribute,
}

impl ConditionalAttribute {
    /// The attribute itself, or those inside a `#[cfg_attr(..)]` at any depth.
    fn flatten(attribute: &Attribute) -> Vec<Self> {
        let Some((condition, inner)) = read_cfg_attr(attribute) else {
            let (conditions, attribute) = (Vec::new(), attribute.clone());
            return vec![Self {
                conditions,
                attribute,
            }];
        };
        let mut all: Vec<_> = inner.iter().flat_map(Self::flatten).collect();
        for conditional in &mut all {
            conditional.conditions.push(condition.clone());
        }
        all
    }

    /// The attribute with the predicates around it.
    fn to_attribute(&self) -> Attribute {
        let put_under = |attribute: Attribute, condition: &TokenStream| {
            let meta = &attribute.meta;
            let meta = parse_quote!(cfg_attr(#condition, #meta));
            Attribute { meta, ..attribute }
        };
        self.conditions.iter().fold(self.attribute.clone(), put_under)
    }
}

/// Whether this is an `#[rpc]` or `#[rpc(..)]` attribute, which the macro reads and removes.
pub(crate) fn is_rpc(attribute: &Attribute) -> bool {
    attribute.path().is_ident("rpc")
}

/// The first attribute inside `#[cfg_attr(..)]` whose path ends with one of these names. The macro
/// runs before the condition is evaluated, so it cannot know whether the attribute applies.
pub(crate) fn find_in_cfg_attr(attribute: &Attribute, names: &[&str]) -> Option<Attribute> {
    ConditionalAttribute::flatten(attribute)
        .into_iter()
        .filter(|conditional| !conditional.conditions.is_empty())
        .map(|conditional| conditional.attribute)
        .find(|attribute| names.iter().any(|name| ends_with(attribute.path(), name)))
}

/// The predicate and the attributes of a `#[cfg_attr(..)]`, or `None` if this is another attribute
/// or is malformed, which the compiler reports.
fn read_cfg_attr(attribute: &Attribute) -> Option<(TokenStream, Vec<Attribute>)> {
    if !attribute.path().is_ident("cfg_attr") {
        return None;
    }
    let read = |input: ParseStream<'_>| {
        let mut condition = TokenStream::new();
        while !input.peek(Token![,]) {
            condition.extend([input.parse::<TokenTree>()?]);
        }
        input.parse::<Token![,]>()?;
        let attributes = Punctuated::<Meta, Token![,]>::parse_terminated(input)?;
        Ok((condition, attributes))
    };
    let (condition, inner) = attribute.parse_args_with(read).ok()?;
    let with_meta = |meta| Attribute {
        meta,
        ..attribute.clone()
    };
    Some((condition, inner.into_iter().map(with_meta).collect()))
}

/// The text of one doc attribute, without the space after `///`, or `None` if it has no text, as in
/// `#[doc(hidden)]`.
fn doc_line(attribute: &Attribute) -> Option<DocLine> {
    let Meta::NameValue(doc) = &attribute.meta else {
        return None;
    };
    match bare_expr(&doc.value) {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text), ..
        }) => {
            let text = text.value();
            Some(DocLine::Text(text.strip_prefix(' ').unwrap_or(&text).to_owned()))
        }
        Expr::Macro(invocation) => Some(DocLine::Macro(invocation.clone())),
        _ => None,
    }
}

/// The value without parentheses and without the invisible group that `macro_rules!` puts around a
/// `$value`.
pub(crate) fn bare_expr(value: &Expr) -> &Expr {
    match value {
        Expr::Group(group) => bare_expr(&group.expr),
        Expr::Paren(paren) => bare_expr(&paren.expr),
        _ => value,
    }
}
