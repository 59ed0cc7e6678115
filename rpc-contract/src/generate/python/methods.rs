//! The constants that describe the methods and the service.

use super::super::json::chunks;
use super::super::layout::Doc;
use super::super::layout::WIDTH;
use super::super::model::{Argument, Method, Retry, Service, Type};
use super::declarations::{absent, type_or_absent};
use super::naming::{MethodNames, Names};
use super::text::STEP;
use super::text::literal;
use super::types::{TypeWriter, generic_of_one};

/// The maximum width of a part of the description. With its quotes and an indentation of eight, it
/// fills a line.
const PART: usize = 90;

/// Returns the constants, after a blank line and a heading.
pub(super) fn methods(service: &Service, names: &Names) -> String {
    let types = TypeWriter::new(service, names);
    let mut written = "\n# Methods.\n\n".to_owned();
    for (method, names_of_method) in service.methods.iter().zip(&names.methods) {
        let constant = constant(method, names_of_method, names, &types);
        written.push_str(&constant.render(WIDTH, 0, STEP));
        written.push('\n');
    }
    if !service.methods.is_empty() {
        written.push('\n');
    }
    written.push_str(&service_constant(service, names).render(WIDTH, 0, STEP));
    written.push('\n');
    written
}

/// Returns the declaration of a method's constant.
fn constant(method: &Method, own_names: &MethodNames, names: &Names, types: &TypeWriter<'_>) -> Doc {
    let mut options = vec![Doc::text(literal(&method.name))];
    if !method.arguments.is_empty() {
        let arguments = method.arguments.iter();
        options.push(tuple(
            arguments.map(|argument| argument_of(argument, types)).collect(),
        ));
    }
    let mut option =
        |name: &str, value: Doc| options.push(Doc::Concat(vec![Doc::text(format!("{name}=")), value]));
    if let Some(item) = &method.incoming {
        option("incoming", types.ty(item));
    }
    option("returns", types.ty(&method.returns));
    match (&method.error, &own_names.failure) {
        (_, Some(failure)) => option("error", Doc::text(failure)),
        (Some(Type::Named(id)), None) => option("error", Doc::text(names.ty(*id))),
        _ => {}
    }
    let function = &own_names.function;
    if *function != method.name {
        option("function", Doc::text(literal(function)));
    }
    let flags = [
        ("default", method.is_default),
        ("idempotent", method.is_idempotent),
        ("oneway", method.is_oneway),
        ("broadcast", method.is_broadcast),
        ("stream", method.is_streaming),
        ("cancel", method.is_cancellable),
    ];
    for (flag, _) in flags.iter().filter(|(_, is_set)| *is_set) {
        option(flag, Doc::text("True"));
    }
    if let Some(argument) = &method.resumed_by {
        option("resume", Doc::text(literal(argument)));
    }
    if let Some(retry) = method.retry {
        option("retry", retry_of(retry));
    }
    if let Some(timeout) = method.timeout_ms {
        option("timeout", Doc::text(seconds(timeout)));
    }
    Doc::Concat(vec![
        Doc::text(format!("{} = ", own_names.constant)),
        generic_of_one("Method[", types.ty(&method.returns)),
        Doc::list("(", options, ")", Doc::SoftLine),
    ])
}

/// Returns the `Argument` that describes an argument. If a caller may leave it out, its type
/// includes what then stands for it: `None` or `Unset`.
fn argument_of(argument: &Argument, types: &TypeWriter<'_>) -> Doc {
    let (type_of_absent, _) = absent(&argument.ty, !argument.is_optional);
    let ty = type_or_absent(types.ty(&argument.ty), type_of_absent);
    let mut parts = vec![Doc::text(literal(&argument.name)), ty];
    if !argument.aliases.is_empty() {
        let aliases = argument.aliases.iter().map(|alias| Doc::text(literal(alias)));
        parts.push(Doc::Concat(vec![Doc::text("aliases="), tuple(aliases.collect())]));
    }
    Doc::Concat(vec![
        Doc::text("Argument"),
        Doc::list("(", parts, ")", Doc::SoftLine),
    ])
}

fn retry_of(retry: Retry) -> Doc {
    let parts = vec![
        Doc::text(format!("times={}", retry.times)),
        Doc::text(format!("min_delay={}", seconds(retry.min_delay_ms))),
        Doc::text(format!("max_delay={}", seconds(retry.max_delay_ms))),
    ];
    Doc::Concat(vec![
        Doc::text("Retry"),
        Doc::list("(", parts, ")", Doc::SoftLine),
    ])
}

/// Returns milliseconds as a literal of seconds.
fn seconds(milliseconds: u64) -> String {
    format!("{:?}", milliseconds as f64 / 1000.0)
}

/// Returns a tuple. Unlike in [`Doc::list`], a comma follows a single item on one line too.
fn tuple(mut items: Vec<Doc>) -> Doc {
    if items.len() != 1 {
        return Doc::list("(", items, ")", Doc::SoftLine);
    }
    Doc::Group(vec![
        Doc::text("("),
        Doc::Indent(vec![Doc::SoftLine, items.remove(0), Doc::text(",")]),
        Doc::SoftLine,
        Doc::text(")"),
    ])
}

fn service_constant(service: &Service, names: &Names) -> Doc {
    let methods = names
        .methods
        .iter()
        .map(|method| Doc::text(&method.constant))
        .collect();
    let options = vec![
        Doc::text(literal(&service.name)),
        Doc::text(format!("queue={}", literal(&service.queue))),
        Doc::Concat(vec![Doc::text("methods="), tuple(methods)]),
        Doc::Concat(vec![Doc::text("description="), description(&service.description)]),
    ];
    Doc::Concat(vec![
        Doc::text("_SERVICE = rpc_runtime.Service"),
        Doc::list("(", options, ")", Doc::SoftLine),
    ])
}

/// Returns JSON as the literal of `description=`. If it does not fit there, it is in parentheses,
/// and each of its parts has a line.
fn description(json: &str) -> Doc {
    let parts = chunks(json, PART);
    if let [only] = parts.as_slice() {
        let only = literal(only);
        // Less than the width: a comma follows.
        if STEP + "description=".len() + only.len() < WIDTH {
            return Doc::text(only);
        }
    }
    let lines = parts
        .iter()
        .flat_map(|part| [Doc::HardLine, Doc::text(literal(part))]);
    Doc::Concat(vec![
        Doc::text("("),
        Doc::Indent(lines.collect()),
        Doc::HardLine,
        Doc::text(")"),
    ])
}
