//! The attributes a user puts on the trait or on a method, and which of them generated items carry too.

use syn::{Attribute, Expr, ExprLit, Ident, Lit, Meta};

/// The attributes of the trait or of one method, without `#[rpc]`.
pub(crate) struct Attributes(Vec<Attribute>);

impl Attributes {
    pub(crate) fn new(written: &[Attribute]) -> Self {
        let others = written.iter().filter(|attribute| !is_rpc(attribute));
        Self(others.cloned().collect())
    }

    /// All of them, for the item that the user wrote.
    pub(crate) fn all(&self) -> &[Attribute] {
        &self.0
    }

    /// The conditions under which the item exists; everything generated for it exists under the same.
    pub(crate) fn cfg(&self) -> Vec<&Attribute> {
        self.named(&["cfg"])
    }

    pub(crate) fn docs(&self) -> Vec<&Attribute> {
        self.named(&["doc"])
    }

    /// Whether `docs` has something to read, and not just settings such as `#[doc(alias = "..")]`.
    pub(crate) fn is_documented(&self) -> bool {
        self.docs()
            .iter()
            .any(|doc| matches!(doc.meta, Meta::NameValue(_)))
    }

    pub(crate) fn deprecated(&self) -> Vec<&Attribute> {
        self.named(&["deprecated"])
    }

    /// Whether the item is deprecated, or may use what is.
    pub(crate) fn is_about_deprecation(&self) -> bool {
        let lints = self.named(&["allow", "expect"]);
        let is_named = |lint: &&Attribute| matches!(&lint.meta, Meta::List(list) if list.tokens.to_string().contains("deprecated"));
        !self.deprecated().is_empty() || lints.iter().any(is_named)
    }

    pub(crate) fn must_use(&self) -> Vec<&Attribute> {
        self.named(&["must_use"])
    }

    /// The lints switched off by the user. An `expect` becomes an `allow`: it is fulfilled on the user's own item and
    /// need not be on a generated one.
    pub(crate) fn lints(&self) -> Vec<Attribute> {
        let mut lints: Vec<_> = self.named(&["allow", "expect"]).into_iter().cloned().collect();
        for lint in &mut lints {
            if let Meta::List(list) = &mut lint.meta {
                list.path = Ident::new("allow", list.path.segments[0].ident.span()).into();
            }
        }
        lints
    }

    /// The text of the doc comments, as the user reads it.
    pub(crate) fn doc_text(&self) -> String {
        let lines: Vec<_> = self.docs().into_iter().filter_map(doc_line).collect();
        lines.join("\n")
    }

    fn named(&self, names: &[&str]) -> Vec<&Attribute> {
        let is_named = |attribute: &&Attribute| names.iter().any(|name| attribute.path().is_ident(name));
        self.0.iter().filter(is_named).collect()
    }
}

/// Whether this is an `#[rpc(..)]` attribute, which is read by the macro and seen by nobody else.
pub(crate) fn is_rpc(attribute: &Attribute) -> bool {
    attribute.path().is_ident("rpc")
}

/// The text of one doc attribute; one space after `///` belongs to the comment.
fn doc_line(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(doc) = &attribute.meta else {
        return None;
    };
    let Expr::Lit(ExprLit {
        lit: Lit::Str(text), ..
    }) = &doc.value
    else {
        return None;
    };
    let text = text.value();
    Some(text.strip_prefix(' ').unwrap_or(&text).to_owned())
}
