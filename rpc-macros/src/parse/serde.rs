//! The `#[serde(..)]` attributes of a parameter.
//!
//! Those that make sense for an argument are passed on to serde's derive. All others are refused
//! here: the derive's error would be followed by errors in generated code.

use syn::parse::ParseStream;
use syn::{Attribute, ExprPath, Ident, LitStr, Meta, Type};

use super::errors::Errors;
use super::settings::{KnownSettings, Setting, no_parentheses};
use super::{names, types};
use crate::model::Serde;

/// Attributes of serde that an argument may have.
const SETTINGS: KnownSettings = KnownSettings {
    settings: &[
        ("default", "default"),
        ("rename", "rename = \"name\""),
        ("alias", "alias = \"older_name\""),
        ("with", "with = \"module\""),
        ("serialize_with", "serialize_with = \"function\""),
        ("deserialize_with", "deserialize_with = \"function\""),
        ("skip_serializing_if", "skip_serializing_if = \"function\""),
    ],
    parentheses_refusal,
};

/// Attributes of serde that a field may have but an argument may not, and the reasons.
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
        "the worker reads owned values if there are attributes of serde; remove `borrow`",
    ),
    ("getter", "`getter` is for fields of remote types; remove it"),
    ("bound", "bounds are written once, on the trait; remove `bound`"),
];

pub(super) fn is_serde(attribute: &Attribute) -> bool {
    attribute.path().is_ident("serde")
}

/// Reads the `#[serde(..)]` attributes among those of a parameter of this type. Also returns the
/// name that they give the argument, if any.
pub(super) fn read(attributes: &[Attribute], ty: &Type, errors: &mut Errors) -> (Serde, Option<LitStr>) {
    let mut settings = Settings::default();
    for attribute in attributes.iter().filter(|attribute| is_serde(attribute)) {
        settings.read(attribute, errors);
    }
    settings.refuse_missing_default(ty, errors);
    (settings.serde, settings.rename)
}

/// Whether the worker has a value for an argument of this type that was left out: the default, or
/// `None` if serde itself reads an `Option`.
pub(super) fn is_optional(serde: &Serde, ty: &Type) -> bool {
    serde.has_default || (types::reads_as_option(ty) && !serde.has_reader)
}

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
        // Cannot fail: all tokens are read.
        let settings = list.parse_args_with(|input: ParseStream<'_>| Ok(SETTINGS.read(input, errors)));
        for setting in settings.into_iter().flatten() {
            self.add(&setting, errors);
        }
        self.serde.attributes.push(attribute.clone());
    }

    fn add(&mut self, setting: &Setting, errors: &mut Errors) {
        let name = &setting.name;
        let Some(usage) = SETTINGS.usage(&name.to_string()) else {
            errors.push(name, refusal_message(name));
            return;
        };
        let is_repeated = match name.to_string().as_str() {
            "default" => {
                if setting.has_value() {
                    check_path(setting, "default = \"function\"", errors);
                }
                std::mem::replace(&mut self.serde.has_default, true)
            }
            "rename" => match setting.text(usage, errors) {
                Some(rename) => self.rename.replace(rename.clone()).is_some(),
                None => false,
            },
            // An argument may have several aliases.
            "alias" => {
                self.serde.aliases.extend(setting.text(usage, errors).cloned());
                false
            }
            "skip_serializing_if" => {
                check_path(setting, usage, errors);
                self.serde.may_be_left_out = true;
                self.skip_serializing_if.replace(name.clone()).is_some()
            }
            with => {
                check_path(setting, usage, errors);
                // `serialize_with` writes, `deserialize_with` reads, and `with` does both.
                let (writes, reads) = (with != "deserialize_with", with != "serialize_with");
                let is_repeated = (writes && self.serde.has_writer) || (reads && self.serde.has_reader);
                self.serde.has_writer |= writes;
                self.serde.has_reader |= reads;
                is_repeated
            }
        };
        if is_repeated {
            let message = format!("`{name}` repeats another attribute; remove one");
            errors.push(name, message);
        }
    }

    /// Refuses `skip_serializing_if` if the worker has no value for an argument that was left out.
    fn refuse_missing_default(&self, ty: &Type, errors: &mut Errors) {
        if let Some(skips) = &self.skip_serializing_if
            && !is_optional(&self.serde, ty)
        {
            let message = "the worker needs a value for an argument that was left out; add `default`";
            errors.push(skips, message);
        }
    }
}

/// The error for parentheses after a name. Serde allows them after `rename`, for a name that
/// differs between writing and reading.
fn parentheses_refusal(name: &Ident) -> String {
    if name != "rename" {
        return no_parentheses(name);
    }
    let advice = "write `rename = \"..\"`, and `alias = \"..\"` for an older name";
    format!("an argument has the same name for caller and worker; {advice}")
}

/// Why an argument cannot have this attribute.
fn refusal_message(name: &Ident) -> String {
    match REFUSED.iter().find(|(refused, _)| name == refused) {
        Some((_, reason)) => (*reason).to_owned(),
        None => format!(
            "unknown attribute `{name}` of serde; {}those of an argument are: {}",
            SETTINGS.suggestion(&name.to_string()),
            SETTINGS.names()
        ),
    }
}

/// Checks the value of a setting that names a function or module: it is a string, as serde expects,
/// with a path that is not reserved.
fn check_path(setting: &Setting, usage: &str, errors: &mut Errors) {
    let Some(path) = setting.text(usage, errors) else {
        return;
    };
    match path.parse::<ExprPath>() {
        Ok(path) => names::refuse_reserved_path(&path.path, errors),
        Err(_) => {
            let message = format!("this is not the path of a function or module; write `{usage}`");
            errors.push(path, message);
        }
    }
}
