//! Reads a parameter of a method.

use quote::format_ident;
use syn::ext::IdentExt;
use syn::{Attribute, Ident, LitStr, Meta, Pat, PatType, Type};

use super::errors::Errors;
use super::options::{self, Options};
use super::serde::{self, is_serde};
use super::types;
use crate::attributes::{find_in_cfg_attr, is_rpc};
use crate::model::{Argument, Parameter, Serde};
use crate::syntax::{bare_type, ends_with, plain_name};

/// The length of the longest tuple of arguments that the runtime implements its traits for.
const MAX_ARGUMENTS: usize = 16;

/// Reads a parameter. `earlier` are those before it.
pub(super) fn read(parameter: &PatType, earlier: &[Parameter], errors: &mut Errors) -> Parameter {
    let options = Options::of_rpc(&parameter.attrs, &options::PARAMETER, errors);
    for attribute in &parameter.attrs {
        if is_rpc(attribute) {
            refuse_empty(attribute, errors);
        } else if !is_serde(attribute) {
            errors.push(attribute, refusal_message(attribute));
        }
    }
    let name =
        read_name(&parameter.pat, errors).unwrap_or_else(|| format_ident!("__parameter_{}", earlier.len()));
    let ty = (*parameter.ty).clone();
    let resume = options.flag("resume", errors).cloned();
    if let Some(context) = options.flag("context", errors) {
        check_context(parameter, context, resume.as_ref(), earlier, errors);
        return Parameter::Context { name, ty };
    }
    if resume.is_none() && is_probably_context(parameter) {
        return Parameter::Context { name, ty };
    }
    if let Some(item) = types::incoming_item(&ty, errors) {
        check_incoming(parameter, resume.as_ref(), earlier, errors);
        let item = Box::new(item);
        return Parameter::Incoming { name, ty, item };
    }
    Parameter::Argument(read_argument(parameter, name, resume, earlier, errors))
}

/// Reads a parameter that is sent in the request. `resume` is its option of that name.
fn read_argument(
    parameter: &PatType,
    name: Ident,
    resume: Option<Ident>,
    earlier: &[Parameter],
    errors: &mut Errors,
) -> Argument {
    let ty = (*parameter.ty).clone();
    let advice = "a stream that the caller sends is a parameter of its own; write `name: Incoming<T>`";
    types::refuse_incoming_within(&ty, advice, errors);
    let shape = types::argument_shape(&ty, errors);
    let (serde, rename) = serde::read(&parameter.attrs, &ty, errors);
    let is_argument = |other: &&Parameter| matches!(other, Parameter::Argument(_));
    let arguments_before = earlier.iter().filter(is_argument).count();
    // Not `>=`: only the first argument that is too many is reported.
    if arguments_before == MAX_ARGUMENTS {
        let message = format!("a method takes at most {MAX_ARGUMENTS} arguments; group them in a struct");
        errors.push(parameter, message);
    }
    if rename.is_none() {
        refuse_underscore(&name, errors);
    }
    let wire_name = rename.unwrap_or_else(|| LitStr::new(&name.unraw().to_string(), name.span()));
    refuse_taken(&wire_name, &serde.aliases, earlier, errors);
    if let Some(resume) = &resume {
        check_resume(resume, &ty, &serde, earlier, errors);
    }
    Argument {
        is_optional: serde::is_optional(&serde, &ty),
        name,
        ty,
        shape,
        wire_name,
        serde,
        resume,
    }
}

/// Checks a parameter with the option `context`.
fn check_context(
    parameter: &PatType,
    context: &Ident,
    resume: Option<&Ident>,
    earlier: &[Parameter],
    errors: &mut Errors,
) {
    refuse_resume(resume, "the context is not sent; remove `resume`", errors);
    for attribute in parameter.attrs.iter().filter(|attribute| is_serde(attribute)) {
        errors.push(attribute, "the context is not sent; remove this attribute");
    }
    types::check_context_type(&parameter.ty, errors);
    if earlier.iter().any(Parameter::is_context) {
        errors.push(context, "a method has one context; remove the second");
    }
}

/// Checks a parameter that is a stream from the caller.
fn check_incoming(parameter: &PatType, resume: Option<&Ident>, earlier: &[Parameter], errors: &mut Errors) {
    for attribute in parameter.attrs.iter().filter(|attribute| is_serde(attribute)) {
        errors.push(
            attribute,
            "the items are no argument; write this on the type of the items",
        );
    }
    if earlier.iter().any(Parameter::is_incoming) {
        let message = "a caller sends one stream; remove the second, or use an enum for both";
        errors.push(parameter, message);
    }
    let message = "the caller's stream cannot be sent again; remove `resume`";
    refuse_resume(resume, message, errors);
}

/// Refuses `resume` on a parameter that is no argument.
fn refuse_resume(resume: Option<&Ident>, message: &str, errors: &mut Errors) {
    if let Some(resume) = resume {
        errors.push(resume, message);
    }
}

/// Checks an argument with the option `resume`. It gets the last item that the caller received of
/// a stream that was interrupted.
fn check_resume(resume: &Ident, ty: &Type, serde: &Serde, earlier: &[Parameter], errors: &mut Errors) {
    if !types::is_option(ty) {
        let message = "this is the last item that the caller got, if any; write `Option<T>`";
        errors.push(ty, message);
    }
    if serde.has_writer || serde.has_reader || serde.may_be_left_out {
        let message = "the last item is encoded as it is in the stream; remove what `#[serde]` changes in it";
        errors.push(resume, message);
    }
    let has_resume =
        |other: &Parameter| matches!(other, Parameter::Argument(other) if other.resume.is_some());
    if earlier.iter().any(has_resume) {
        errors.push(
            resume,
            "one argument gets the last item; remove the second `resume`",
        );
    }
}

/// Whether a parameter without any option is probably meant to have `context`: its type is a
/// reference to a `Context`, and it has an `#[rpc]`. An error says what is wrong with that, and the
/// client's stub should not take the parameter as an argument.
fn is_probably_context(parameter: &PatType) -> bool {
    let Type::Reference(reference) = bare_type(&parameter.ty) else {
        return false;
    };
    let Type::Path(referent) = bare_type(&reference.elem) else {
        return false;
    };
    ends_with(&referent.path, "Context") && parameter.attrs.iter().any(is_rpc)
}

/// Refuses `#[rpc()]`, which would pass for `#[rpc(context)]` on a `&Context`.
fn refuse_empty(attribute: &Attribute, errors: &mut Errors) {
    if matches!(&attribute.meta, Meta::List(list) if list.tokens.is_empty()) {
        let message = "`#[rpc()]` has no options; write `#[rpc(context)]` or `#[rpc(resume)]`, or remove it";
        errors.push(attribute, message);
    }
}

/// Why a parameter cannot have this attribute.
fn refusal_message(attribute: &Attribute) -> &'static str {
    if attribute.path().is_ident("cfg") || find_in_cfg_attr(attribute, &["cfg"]).is_some() {
        "a parameter cannot depend on a condition; write the method twice, each under its own `#[cfg(..)]`"
    } else if find_in_cfg_attr(attribute, &["rpc", "serde"]).is_some() {
        "options cannot depend on a condition; write the method twice, each under its own `#[cfg(..)]`"
    } else {
        "a parameter takes `#[rpc(..)]` and `#[serde(..)]` only; write this one on the method"
    }
}

/// Refuses a name that begins with one underscore. The underscore says that the default body does
/// not use the argument. That is no concern of callers, who see the name on the wire. `names`
/// refuses two underscores.
fn refuse_underscore(name: &Ident, errors: &mut Errors) {
    let sent = name.unraw().to_string();
    if let Some(plain) = sent.strip_prefix('_')
        && !plain.starts_with('_')
    {
        let message = format!(
            "`{sent}` would be the argument's name on the wire; remove the underscore, or add `#[serde(rename = \"..\")]`"
        );
        errors.push(name, message);
    }
}

/// Refuses a wire name or an alias of an argument if an earlier argument has the same wire name or
/// alias.
fn refuse_taken(wire_name: &LitStr, aliases: &[LitStr], earlier: &[Parameter], errors: &mut Errors) {
    let aliases = aliases.iter().map(|alias| (alias, "remove this alias"));
    for (name, advice) in std::iter::once((wire_name, "give this argument another")).chain(aliases) {
        let is_same = |other: &LitStr| other.value() == name.value();
        let taken = earlier.iter().find_map(|other| match other {
            Parameter::Argument(other) if is_same(&other.wire_name) => Some((&other.name, "wire name")),
            Parameter::Argument(other) if other.serde.aliases.iter().any(is_same) => {
                Some((&other.name, "alias"))
            }
            _ => None,
        });
        if let Some((other, what)) = taken {
            let message = format!("`{other}` already has the {what} `{}`; {advice}", name.value());
            errors.push(name, message);
        }
    }
}

/// The name of a parameter, or `None` if the pattern is not just a name, which is refused.
fn read_name(pattern: &Pat, errors: &mut Errors) -> Option<Ident> {
    if let Some(name) = plain_name(pattern) {
        return Some(name.clone());
    }
    let message = match pattern {
        Pat::Ident(name) => {
            format!("arguments are sent by name; write only `{}`", name.ident)
        }
        Pat::Wild(_) => "arguments are sent by name; write a name instead of `_`".to_owned(),
        _ => "arguments are sent by name; write a name here, and destructure it in the implementation"
            .to_owned(),
    };
    errors.push(pattern, message);
    None
}
