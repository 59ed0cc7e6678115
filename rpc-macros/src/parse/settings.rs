//! The syntax of settings: `name` and `name = value`, separated by commas.
//!
//! This module knows the syntax, and the names that are valid in a place. Callers interpret the
//! settings.

use proc_macro2::TokenTree;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{Expr, ExprLit, Ident, Lit, LitStr, Token, token};

use super::errors::Errors;
use crate::attributes::bare_expr;

pub(super) struct Setting {
    pub(super) name: Ident,
    value: Option<Expr>,
}

impl Setting {
    /// Whether it has a value of any kind.
    pub(super) fn has_value(&self) -> bool {
        self.value.is_some()
    }

    /// The name of a setting that takes no value. Reports an error for a value, and returns the
    /// name all the same.
    pub(super) fn flag(&self, errors: &mut Errors) -> &Ident {
        let Self { name, value } = self;
        if let Some(value) = value {
            errors.push(value, no_value(name));
        }
        name
    }

    /// The value. Refuses a setting without one, and returns `None`.
    pub(super) fn value(&self, usage: &str, errors: &mut Errors) -> Option<&Expr> {
        let Self { name, value } = self;
        if value.is_none() {
            errors.push(name, format!("`{name}` needs a value; write `{usage}`"));
        }
        value.as_ref().map(bare_expr)
    }

    /// The value. Refuses a missing one, and one that is not a string, and returns `None`.
    pub(super) fn text(&self, usage: &str, errors: &mut Errors) -> Option<&LitStr> {
        let name = &self.name;
        match self.value(usage, errors)? {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) => Some(text),
            other => {
                errors.push(other, format!("`{name}` takes a string; write `{usage}`"));
                None
            }
        }
    }
}

/// The settings that are valid in one place.
pub(super) struct KnownSettings {
    /// The name of each, and its usage: how to write it, for error messages.
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// The error for parentheses after a name.
    pub(super) parentheses_refusal: fn(&Ident) -> String,
}

impl KnownSettings {
    pub(super) fn usage(&self, name: &str) -> Option<&'static str> {
        let mut settings = self.settings.iter();
        settings
            .find(|(known, _)| *known == name)
            .map(|(_, usage)| *usage)
    }

    /// The usage of the first one, for errors that are about none in particular.
    pub(super) fn example(&self) -> &'static str {
        self.settings[0].1
    }

    /// All names, for an error message.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self
            .settings
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        names.join(", ")
    }

    /// The question whether a similar name was meant, followed by a space, or an empty text if no
    /// name is similar. A name is similar if at most a third of it has to change.
    pub(super) fn suggestion(&self, misspelt: &str) -> String {
        let distance = |known: &str| strsim::levenshtein(&misspelt.to_lowercase(), known);
        let names = self.settings.iter().map(|(name, _)| *name);
        match names.min_by_key(|name| distance(name)) {
            Some(closest) if distance(closest) <= closest.len() / 3 => format!("did you mean `{closest}`? "),
            _ => String::new(),
        }
    }

    /// Reads a list. After an error in an entry, reading continues after the next comma.
    pub(super) fn read(&self, input: ParseStream<'_>, errors: &mut Errors) -> Vec<Setting> {
        let mut settings = Vec::new();
        while !input.is_empty() {
            let setting = errors.keep(self.read_setting(input));
            let unexpected = skip_entry(input);
            // After an error, the rest of the entry is skipped without a second error.
            if let (Some(_), Some(unexpected)) = (&setting, unexpected) {
                errors.push(unexpected, "expected `,`");
            }
            settings.extend(setting);
        }
        settings
    }

    fn read_setting(&self, input: ParseStream<'_>) -> syn::Result<Setting> {
        if !input.peek(Ident::peek_any) {
            return Err(input.error(format!("expected an option; write `{}`", self.example())));
        }
        let name = Ident::parse_any(input)?;
        if input.peek(token::Paren) {
            return Err(input.error((self.parentheses_refusal)(&name)));
        }
        let value = match input.parse::<Option<Token![=]>>()? {
            Some(equals) if input.is_empty() || input.peek(Token![,]) => {
                let usage = self.usage(&name.to_string()).unwrap_or("name = value");
                let message = format!("there is no value after `=`; write `{usage}`");
                return Err(syn::Error::new_spanned(equals, message));
            }
            Some(_) => Some(input.parse()?),
            None => None,
        };
        Ok(Setting { name, value })
    }
}

/// Skips past the next comma, or to the end, and returns the first token skipped before it.
fn skip_entry(input: ParseStream<'_>) -> Option<TokenTree> {
    let mut first = None;
    while let Ok(token) = input.parse::<TokenTree>() {
        if matches!(&token, TokenTree::Punct(comma) if comma.as_char() == ',') {
            break;
        }
        first.get_or_insert(token);
    }
    first
}

/// The error for a value of a setting that takes none.
pub(super) fn no_value(name: &Ident) -> String {
    format!("`{name}` takes no value; write `{name}`")
}

/// The error for parentheses where a value needs `=`.
pub(super) fn no_parentheses(name: &Ident) -> String {
    format!("options take their value after `=`; write `{name} = ..`")
}
