//! The syntax of options: `name` and `name = value`, between the parentheses of `#[service(..)]` and `#[rpc(..)]`.
//!
//! Knows which options exist where and what they look like; what their values mean is the business of the caller.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Path, Token, token};

use super::errors::Errors;
use crate::attributes::is_rpc;

/// A place that takes options.
pub(super) struct Place {
    name: &'static str,
    /// Each option's name, and how it is written.
    options: &'static [(&'static str, &'static str)],
}

/// `#[service(..)]` on the trait.
pub(super) const SERVICE: Place = Place {
    name: "service",
    options: &[
        ("queue", "queue = \"rpc_queue\""),
        ("crate", "crate = path::to::rpc_runtime"),
    ],
};

/// `#[rpc(..)]` on a method.
pub(super) const METHOD: Place = Place {
    name: "method",
    options: &[
        ("default", "default"),
        ("idempotent", "idempotent"),
        ("oneway", "oneway"),
        ("timeout", "timeout = \"2s\""),
        ("name", "name = \"wire.name\""),
    ],
};

/// `#[rpc(..)]` on a parameter.
pub(super) const PARAMETER: Place = Place {
    name: "parameter",
    options: &[("context", "context")],
};

const PLACES: [&Place; 3] = [&SERVICE, &METHOD, &PARAMETER];

impl Place {
    fn usage(&self, option: &str) -> Option<&'static str> {
        self.options
            .iter()
            .find(|(name, _)| *name == option)
            .map(|(_, usage)| *usage)
    }

    fn example(&self) -> &'static str {
        self.options[0].1
    }

    fn unknown(&self, option: &str) -> String {
        if let Some(place) = PLACES.into_iter().find(|place| place.usage(option).is_some()) {
            return format!(
                "`{option}` is an option of a {}, not of a {}",
                place.name, self.name
            );
        }
        let suggestion = match self.closest(option) {
            Some(known) => format!("did you mean `{known}`? "),
            None => String::new(),
        };
        let known: Vec<_> = self.options.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!(
            "unknown option `{option}`; {suggestion}the options of a {} are: {}",
            self.name,
            known.join(", ")
        )
    }

    /// The option that was probably meant.
    fn closest(&self, misspelt: &str) -> Option<&'static str> {
        let distance = |known: &str| edit_distance(&misspelt.to_lowercase(), known);
        let (closest, _) = self.options.iter().min_by_key(|(name, _)| distance(name))?;
        (distance(closest) <= closest.len() / 3).then_some(closest)
    }
}

/// The options given in one place, each of them known and given once.
pub(super) struct Options {
    place: &'static Place,
    settings: Vec<Setting>,
}

struct Setting {
    name: Ident,
    value: Option<Expr>,
}

/// The value without parentheses, or the invisible group that `macro_rules!` puts around what it was given.
pub(super) fn bare(value: &Expr) -> &Expr {
    match value {
        Expr::Group(group) => bare(&group.expr),
        Expr::Paren(paren) => bare(&paren.expr),
        _ => value,
    }
}

impl Options {
    /// Reads the arguments of `#[service(..)]`.
    pub(super) fn of_service(arguments: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self {
            place: &SERVICE,
            settings: Vec::new(),
        };
        options.read(arguments, errors);
        options
    }

    /// Reads every `#[rpc(..)]` among the attributes.
    pub(super) fn of_rpc(attributes: &[Attribute], place: &'static Place, errors: &mut Errors) -> Self {
        let mut options = Self {
            place,
            settings: Vec::new(),
        };
        for attribute in attributes.iter().filter(|attribute| is_rpc(attribute)) {
            match &attribute.meta {
                Meta::List(list) => options.read(list.tokens.clone(), errors),
                _ => errors.push(
                    attribute,
                    format!(
                        "`#[rpc]` needs options in parentheses; write `#[rpc({})]` or remove it",
                        place.example()
                    ),
                ),
            }
        }
        options
    }

    /// An option without a value: its name, if it was given.
    pub(super) fn flag(&self, name: &str, errors: &mut Errors) -> Option<&Ident> {
        let setting = self.setting(name)?;
        if let Some(value) = &setting.value {
            errors.push(value, format!("`{name}` takes no value; write `{name}`"));
        }
        Some(&setting.name)
    }

    /// An option whose value is a string.
    pub(super) fn text(&self, name: &str, errors: &mut Errors) -> Option<&LitStr> {
        match self.value(name, errors)? {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) => Some(text),
            other => {
                errors.push(
                    other,
                    format!("`{name}` takes a string; write `{}`", self.usage(name)),
                );
                None
            }
        }
    }

    /// An option whose value is a path.
    pub(super) fn path(&self, name: &str, errors: &mut Errors) -> Option<&Path> {
        match self.value(name, errors)? {
            Expr::Path(value) if value.qself.is_none() => Some(&value.path),
            other => {
                errors.push(
                    other,
                    format!("`{name}` takes a path; write `{}`", self.usage(name)),
                );
                None
            }
        }
    }

    fn value(&self, name: &str, errors: &mut Errors) -> Option<&Expr> {
        let setting = self.setting(name)?;
        if setting.value.is_none() {
            errors.push(
                &setting.name,
                format!("`{name}` needs a value; write `{}`", self.usage(name)),
            );
        }
        setting.value.as_ref().map(bare)
    }

    fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    fn usage(&self, name: &str) -> &'static str {
        self.place.usage(name).unwrap_or_default()
    }

    fn read(&mut self, tokens: TokenStream, errors: &mut Errors) {
        let place = self.place;
        let settings = (|input: ParseStream<'_>| parse_settings(input, place)).parse2(tokens);
        for setting in errors.keep(settings).into_iter().flatten() {
            self.add(setting, errors);
        }
    }

    fn add(&mut self, setting: Setting, errors: &mut Errors) {
        let name = setting.name.to_string();
        if self.place.usage(&name).is_none() {
            errors.push(setting.name, self.place.unknown(&name));
        } else if self.setting(&name).is_some() {
            errors.push(
                setting.name,
                format!("option `{name}` is given twice; remove one"),
            );
        } else {
            self.settings.push(setting);
        }
    }
}

fn parse_settings(input: ParseStream<'_>, place: &Place) -> syn::Result<Vec<Setting>> {
    let mut settings = Vec::new();
    while !input.is_empty() {
        settings.push(parse_setting(input, place)?);
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(settings)
}

fn parse_setting(input: ParseStream<'_>, place: &Place) -> syn::Result<Setting> {
    if !input.peek(Ident::peek_any) {
        return Err(input.error(format!("expected an option; write `{}`", place.example())));
    }
    let name = Ident::parse_any(input)?;
    if input.peek(token::Paren) {
        return Err(input.error(format!("options take their value after `=`; write `{name} = ..`")));
    }
    let value = match input.parse::<Option<Token![=]>>()? {
        Some(_) => Some(input.parse()?),
        None => None,
    };
    Ok(Setting { name, value })
}

/// The number of letters to insert, remove or replace to get from one word to the other (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
