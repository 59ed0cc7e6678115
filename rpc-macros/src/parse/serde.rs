//! The `#[serde(..)]` attributes of a parameter.
//!
//! Serde's derive reads them again, in full, and reports what is wrong with them. Here is read what the rest of the
//! expansion has to know.

use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Lit, LitStr, Meta, Token};

use super::errors::Errors;
use super::options::bare;
use crate::model::Serde;

pub(super) fn is_serde(attribute: &Attribute) -> bool {
    attribute.path().is_ident("serde")
}

/// Reads the `#[serde(..)]` among a parameter's attributes, and the name that they give the argument, if they do.
pub(super) fn read(written: &[Attribute], errors: &mut Errors) -> (Serde, Option<LitStr>) {
    let mut serde = Serde::default();
    serde
        .attributes
        .extend(written.iter().filter(|attribute| is_serde(attribute)).cloned());
    let mut rename = None;
    for setting in serde.attributes.iter().flat_map(settings) {
        let Some(name) = setting.path().get_ident() else {
            continue;
        };
        match name.to_string().as_str() {
            "with" => (serde.writes, serde.reads) = (true, true),
            "serialize_with" => serde.writes = true,
            "deserialize_with" => serde.reads = true,
            "rename" => rename = read_rename(&setting, errors).or(rename),
            "skip" => errors.push(
                name,
                "an argument that is skipped reaches no worker; remove the parameter",
            ),
            _ => {}
        }
    }
    (serde, rename)
}

fn settings(attribute: &Attribute) -> Vec<Meta> {
    let settings = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    settings.into_iter().flatten().collect()
}

fn read_rename(setting: &Meta, errors: &mut Errors) -> Option<LitStr> {
    if let Meta::NameValue(rename) = setting
        && let Expr::Lit(ExprLit {
            lit: Lit::Str(name), ..
        }) = bare(&rename.value)
    {
        return Some(name.clone());
    }
    errors.push(
        setting,
        "an argument has one name for caller and worker; write `rename = \"..\"`, and `alias = \"..\"` for an older one",
    );
    None
}
