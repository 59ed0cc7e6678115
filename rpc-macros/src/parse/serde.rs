//! The `#[serde(..)]` attributes of a parameter.
//!
//! Those that make sense on an argument are passed on to serde's derive. All others are refused here: what the derive
//! says of them would be followed by errors of code that the user has not written.

use syn::parse::ParseStream;
use syn::{Attribute, ExprPath, Ident, LitStr, Meta, Type};

use super::errors::Errors;
use super::settings::{Setting, Vocabulary, no_parentheses};
use super::{names, types};
use crate::model::Serde;

/// What serde can be told about an argument.
const SETTINGS: Vocabulary = Vocabulary {
    settings: &[
        ("default", "default"),
        ("rename", "rename = \"name\""),
        ("alias", "alias = \"older_name\""),
        ("with", "with = \"module\""),
        ("serialize_with", "serialize_with = \"function\""),
        ("deserialize_with", "deserialize_with = \"function\""),
        ("skip_serializing_if", "skip_serializing_if = \"function\""),
    ],
    parentheses,
};

/// What serde can be told about fields only, and why not about arguments.
const REFUSED: [(&str, &str); 7] = [
    (
        "skip",
        "an argument that is skipped reaches no worker; remove the parameter",
    ),
    (
        "skip_serializing",
        "an argument that is never written reaches no worker; remove the parameter, or leave it out at times with `skip_serializing_if`",
    ),
    (
        "skip_deserializing",
        "an argument that is never read reaches no worker; remove the parameter",
    ),
    (
        "flatten",
        "arguments are sent by name, and a flattened one has none; remove `flatten`, or write its fields as parameters",
    ),
    (
        "borrow",
        "the worker owns what it reads with attributes of serde; remove `borrow`",
    ),
    (
        "getter",
        "an argument is no field of a remote type; remove `getter`",
    ),
    ("bound", "bounds are written once, on the trait; remove `bound`"),
];

pub(super) fn is_serde(attribute: &Attribute) -> bool {
    attribute.path().is_ident("serde")
}

/// Reads the `#[serde(..)]` among the attributes of a parameter of this type, and the name that they give the
/// argument, if they do.
pub(super) fn read(written: &[Attribute], ty: &Type, errors: &mut Errors) -> (Serde, Option<LitStr>) {
    let mut settings = Settings::default();
    for attribute in written.iter().filter(|attribute| is_serde(attribute)) {
        settings.read(attribute, errors);
    }
    settings.refuse_missing_default(ty, errors);
    (settings.serde, settings.rename)
}

/// What was read so far.
#[derive(Default)]
struct Settings {
    serde: Serde,
    rename: Option<LitStr>,
    skip_serializing_if: Option<Ident>,
}

impl Settings {
    fn read(&mut self, attribute: &Attribute, errors: &mut Errors) {
        let Meta::List(list) = &attribute.meta else {
            let message = "`#[serde]` needs settings in parentheses; write `#[serde(default)]` or remove it";
            errors.push(attribute, message);
            return;
        };
        let settings = list.parse_args_with(|input: ParseStream<'_>| Ok(SETTINGS.read(input, errors)));
        for setting in settings.into_iter().flatten() {
            self.add(&setting, errors);
        }
        self.serde.attributes.push(attribute.clone());
    }

    fn add(&mut self, setting: &Setting, errors: &mut Errors) {
        let name = &setting.name;
        let Some(usage) = SETTINGS.usage(&name.to_string()) else {
            errors.push(name, fault(name));
            return;
        };
        let is_given = match name.to_string().as_str() {
            "default" => {
                if setting.has_value() {
                    read_path(setting, "default = \"function\"", errors);
                }
                std::mem::replace(&mut self.serde.has_default, true)
            }
            "rename" => match setting.text(usage, errors) {
                Some(rename) => self.rename.replace(rename.clone()).is_some(),
                None => false,
            },
            // There can be several.
            "alias" => {
                self.serde.aliases.extend(setting.text(usage, errors).cloned());
                false
            }
            "skip_serializing_if" => {
                read_path(setting, usage, errors);
                self.skip_serializing_if.replace(name.clone()).is_some()
            }
            function => {
                read_path(setting, usage, errors);
                let (writes, reads) = (function != "deserialize_with", function != "serialize_with");
                let is_given = (writes && self.serde.writes) || (reads && self.serde.reads);
                self.serde.writes |= writes;
                self.serde.reads |= reads;
                is_given
            }
        };
        if is_given {
            let message = format!("another attribute says what `{name}` says; remove one");
            errors.push(name, message);
        }
    }

    /// What is left out must be made up by the worker. Serde does so for an `Option` that it reads itself.
    fn refuse_missing_default(&self, ty: &Type, errors: &mut Errors) {
        let is_made_up = self.serde.has_default || (types::is_option(ty) && !self.serde.reads);
        if let Some(skips) = &self.skip_serializing_if
            && !is_made_up
        {
            let message = "the worker has to know what was left out; add `default`";
            errors.push(skips, message);
        }
    }
}

/// Serde has parentheses for names that differ between writing and reading.
fn parentheses(name: &Ident) -> String {
    if name != "rename" {
        return no_parentheses(name);
    }
    let advice = "write `rename = \"..\"`, and `alias = \"..\"` for an older one";
    format!("an argument has one name for caller and worker; {advice}")
}

/// Why this cannot be said of an argument.
fn fault(name: &Ident) -> String {
    match REFUSED.iter().find(|(refused, _)| name == refused) {
        Some((_, reason)) => (*reason).to_owned(),
        None => format!(
            "unknown attribute `{name}` of serde; {}those of an argument are: {}",
            SETTINGS.suggestion(&name.to_string()),
            SETTINGS.names()
        ),
    }
}

/// Serde writes the path of a function or module as a string.
fn read_path(setting: &Setting, usage: &str, errors: &mut Errors) {
    let Some(path) = setting.text(usage, errors) else {
        return;
    };
    match path.parse::<ExprPath>() {
        Ok(path) => names::refuse_reserved_path(&path.path, errors),
        Err(_) => {
            let message = format!("this is the path of no function or module; write `{usage}`");
            errors.push(path, message);
        }
    }
}
