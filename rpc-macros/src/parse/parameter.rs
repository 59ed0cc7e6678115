//! Reading one parameter of a method.

use syn::{Ident, Pat, PatType};

use super::errors::Errors;
use super::options::{self, Options};
use super::types;
use crate::attributes::is_rpc;
use crate::model::{Argument, Parameter};

/// Arguments go through the runtime as a tuple, and it knows tuples up to this length.
const MAX_ARGUMENTS: usize = 16;

/// Reads a parameter, given those before it. Where a pattern stands instead of a name, there is none to speak of.
pub(super) fn read(parameter: &PatType, earlier: &[Parameter], errors: &mut Errors) -> Option<Parameter> {
    let options = Options::of_rpc(&parameter.attrs, &options::PARAMETER, errors);
    for attribute in parameter.attrs.iter().filter(|attribute| !is_rpc(attribute)) {
        errors.push(
            attribute,
            "a parameter takes no attribute but `#[rpc(context)]`; write this one on the method",
        );
    }
    let name = read_name(&parameter.pat, errors);
    let ty = (*parameter.ty).clone();
    if let Some(context) = options.flag("context", errors) {
        types::context_type(&ty, errors);
        if earlier.iter().any(Parameter::is_context) {
            errors.push(context, "a method has one context; remove the second");
        }
        return Some(Parameter::Context { name: name?, ty });
    }
    let shape = types::argument_shape(&ty, errors);
    let before = earlier.iter().filter(|other| !other.is_context()).count();
    if before == MAX_ARGUMENTS {
        let message = format!("a method takes at most {MAX_ARGUMENTS} arguments; group them in a struct");
        errors.push(parameter, message);
    }
    Some(Parameter::Argument(Argument {
        name: name?,
        ty,
        shape,
    }))
}

fn read_name(pattern: &Pat, errors: &mut Errors) -> Option<Ident> {
    let message = match pattern {
        Pat::Ident(name) if name.by_ref.is_none() && name.mutability.is_none() && name.subpat.is_none() => {
            return Some(name.ident.clone());
        }
        Pat::Ident(name) => {
            format!(
                "the name goes over the wire, and nothing else of this pattern; write `{}`",
                name.ident
            )
        }
        Pat::Wild(_) => "arguments are sent by name; write a name instead of `_`".to_owned(),
        _ => {
            "arguments are sent by name; write a name here and take it apart in the implementation".to_owned()
        }
    };
    errors.push(pattern, message);
    None
}
