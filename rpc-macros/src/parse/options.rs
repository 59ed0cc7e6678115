//! The options of `#[service(..)]` and `#[rpc(..)]`, and where each may be.

use proc_macro2::TokenStream;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Expr, Ident, LitStr, Meta, Path};

use super::errors::Errors;
use super::settings::{KnownSettings, Setting, no_parentheses, no_value};
use crate::attributes::is_rpc;

/// A place that takes options.
pub(super) struct OptionPlace {
    name: &'static str,
    options: KnownSettings,
}

/// `#[service(..)]` on the trait.
pub(super) const SERVICE: OptionPlace = OptionPlace {
    name: "service",
    options: KnownSettings {
        settings: &[
            ("queue", "queue = \"rpc_queue\""),
            ("crate", "crate = path::to::rpc_runtime"),
            ("schema", "schema"),
        ],
        parentheses_refusal,
    },
};

/// `#[rpc(..)]` on a method.
pub(super) const METHOD: OptionPlace = OptionPlace {
    name: "method",
    options: KnownSettings {
        settings: &[
            ("default", "default"),
            ("idempotent", "idempotent"),
            ("cancel", "cancel"),
            ("oneway", "oneway"),
            ("broadcast", "broadcast"),
            ("retry", "retry = \"5 times, 1s to 5m\""),
            ("timeout", "timeout = \"2s\""),
            ("name", "name = \"wire.name\""),
        ],
        parentheses_refusal,
    },
};

/// `#[rpc(..)]` on a parameter.
pub(super) const PARAMETER: OptionPlace = OptionPlace {
    name: "parameter",
    options: KnownSettings {
        settings: &[("context", "context"), ("resume", "resume")],
        parentheses_refusal,
    },
};

const PLACES: [&OptionPlace; 3] = [&SERVICE, &METHOD, &PARAMETER];

/// The error for parentheses after the name of an option.
fn parentheses_refusal(name: &Ident) -> String {
    let text = name.to_string();
    // The usage of an option without a value is its name.
    let mut usages = PLACES.iter().filter_map(|place| place.options.usage(&text));
    if usages.any(|usage| usage == text) {
        no_value(name)
    } else {
        no_parentheses(name)
    }
}

impl OptionPlace {
    /// The error for an option that this place does not have. It says so if another place has it.
    fn unknown_option_message(&self, option: &str) -> String {
        let mut places = PLACES.into_iter();
        if let Some(place) = places.find(|place| place.options.usage(option).is_some()) {
            return format!(
                "`{option}` is an option of a {}, not of a {}",
                place.name, self.name
            );
        }
        format!(
            "unknown option `{option}`; {}the options of a {} are: {}",
            self.options.suggestion(option),
            self.name,
            self.options.names()
        )
    }
}

/// The options given in one place. Each is known and given once.
pub(super) struct Options {
    place: &'static OptionPlace,
    settings: Vec<Setting>,
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

    /// Reads every `#[rpc(..)]` among the attributes. Refuses an `#[rpc]` without parentheses.
    pub(super) fn of_rpc(attributes: &[Attribute], place: &'static OptionPlace, errors: &mut Errors) -> Self {
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
                        place.options.example()
                    ),
                ),
            }
        }
        options
    }

    /// The name of an option, or `None` if it was not given. Reports an error for a value, and
    /// returns the name all the same.
    pub(super) fn flag(&self, name: &str, errors: &mut Errors) -> Option<&Ident> {
        Some(self.setting(name)?.flag(errors))
    }

    /// Like [`flag`](Self::flag), but accepts a value, so that a value is not refused twice.
    pub(super) fn given(&self, name: &str) -> Option<&Ident> {
        Some(&self.setting(name)?.name)
    }

    /// The value of an option that takes a string, or `None` if it was not given. Refuses a missing
    /// value and any other, and returns `None`.
    pub(super) fn text(&self, name: &str, errors: &mut Errors) -> Option<&LitStr> {
        self.setting(name)?.text(self.usage(name), errors)
    }

    /// The value of an option that takes a path, or `None` if it was not given. Refuses a missing
    /// value and any other, and returns `None`.
    pub(super) fn path(&self, name: &str, errors: &mut Errors) -> Option<&Path> {
        let usage = self.usage(name);
        match self.setting(name)?.value(usage, errors)? {
            Expr::Path(value) if value.qself.is_none() => Some(&value.path),
            other => {
                errors.push(other, format!("`{name}` takes a path; write `{usage}`"));
                None
            }
        }
    }

    fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    fn usage(&self, name: &str) -> &'static str {
        self.place.options.usage(name).unwrap_or_default()
    }

    fn read(&mut self, tokens: TokenStream, errors: &mut Errors) {
        let options = &self.place.options;
        // Cannot fail: all tokens are read.
        let settings = (|input: ParseStream<'_>| Ok(options.read(input, errors))).parse2(tokens);
        for setting in settings.into_iter().flatten() {
            self.add(setting, errors);
        }
    }

    fn add(&mut self, setting: Setting, errors: &mut Errors) {
        let name = setting.name.to_string();
        if self.place.options.usage(&name).is_none() {
            errors.push(setting.name, self.place.unknown_option_message(&name));
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
