//! The constants that describe the methods and the service.

use super::super::docs::quoted;
use super::super::json::chunks;
use super::super::layout::Doc;
use super::super::layout::WIDTH;
use super::super::model::{Argument, Method, Service, Type};
use super::declarations::error_name;
use super::descriptors::{DescriptorWriter, call, call_with_object, object, property};
use super::naming::{MethodNames, Names};
use super::text::STEP;
use super::text::{jsdoc, lines, literal};

/// The most columns of a part of the service's description. With its indentation, its quotes and a
/// `+`, it fits a line.
const PART: usize = 90;

/// Whether the constant `methods` mentions `t`, which has the descriptors of unnamed types and
/// marks optional arguments.
pub(super) fn mentions_t(service: &Service) -> bool {
    let is_unnamed = |ty: &Type| !matches!(ty, Type::Named(_));
    service.methods.iter().any(|method| {
        let has_result = !returns_nothing(method) && is_unnamed(&method.returns);
        let mut arguments = method.arguments.iter();
        has_result
            || method.incoming.as_ref().is_some_and(is_unnamed)
            || arguments.any(|argument| is_optional(argument) || is_unnamed(&argument.ty))
    })
}

/// Whether a method returns nothing, rather than a value or a stream of items.
pub(super) fn returns_nothing(method: &Method) -> bool {
    method.is_oneway || (method.returns == Type::Unit && !method.is_streaming)
}

/// Whether an argument may be `undefined`. An option or a unit is `null` instead.
pub(super) fn is_optional(argument: &Argument) -> bool {
    argument.is_optional && !matches!(argument.ty, Type::Option(_) | Type::Unit)
}

/// Returns the constant `methods` and that of the service, each after a blank line.
pub(super) fn methods(service: &Service, names: &Names) -> String {
    let types = DescriptorWriter::new(service, names);
    let mut written = "\n".to_owned();
    if service.methods.is_empty() {
        written.push_str("const methods = {};\n");
    } else {
        written.push_str("const methods = {\n");
        for (method, names_of_method) in service.methods.iter().zip(&names.methods) {
            let method = method_of(method, names_of_method, names, &types);
            let line = Doc::Concat(vec![property(&names_of_method.function, method), Doc::text(",")]);
            written.push_str(&lines(&line, STEP));
        }
        written.push_str("};\n");
    }
    written.push_str(&service_constant(service, names));
    written
}

/// Returns the call of `rpc.method` that declares a method.
fn method_of(method: &Method, own_names: &MethodNames, names: &Names, types: &DescriptorWriter<'_>) -> Doc {
    let mut options = vec![property("name", Doc::text(literal(&method.name)))];
    if !method.arguments.is_empty() {
        let arguments = method.arguments.iter().map(|argument| {
            let ty = types.ty(&argument.ty);
            let ty = if is_optional(argument) {
                call("t.optional", vec![ty])
            } else {
                ty
            };
            property(&argument.name, ty)
        });
        options.push(property("args", object(arguments.collect())));
    }
    let aliases = method
        .arguments
        .iter()
        .filter(|argument| !argument.aliases.is_empty());
    let aliases: Vec<_> = aliases.map(aliases_of).collect();
    if !aliases.is_empty() {
        options.push(property("aliases", object(aliases)));
    }
    if let Some(item) = &method.incoming {
        options.push(property("incoming", types.ty(item)));
    }
    if !returns_nothing(method) {
        options.push(property("result", types.ty(&method.returns)));
    }
    if let Some(error) = error_name(method.error.as_ref(), own_names.failure.as_deref(), names) {
        options.push(property("error", Doc::text(error)));
    }
    let flags = [
        ("isDefault", method.is_default),
        ("idempotent", method.is_idempotent),
        ("oneway", method.is_oneway),
        ("broadcast", method.is_broadcast),
        ("stream", method.is_streaming),
        ("cancel", method.is_cancellable),
    ];
    let flags = flags.into_iter().filter(|(_, is_set)| *is_set);
    options.extend(flags.map(|(flag, _)| property(flag, Doc::text("true"))));
    if let Some(argument) = &method.resumed_by {
        options.push(property("resume", Doc::text(literal(argument))));
    }
    if let Some(retry) = method.retry {
        let retry = vec![
            property("times", Doc::text(retry.times.to_string())),
            property("minDelayMs", Doc::text(number(retry.min_delay_ms))),
            property("maxDelayMs", Doc::text(number(retry.max_delay_ms))),
        ];
        options.push(property("retry", object(retry)));
    }
    if let Some(timeout) = method.timeout_ms {
        options.push(property("timeoutMs", Doc::text(number(timeout))));
    }
    call_with_object("rpc.method", vec![], object(options))
}

/// Returns a number for JavaScript, at most the largest that is exact there.
fn number(number: u64) -> String {
    number.min((1 << 53) - 1).to_string()
}

fn aliases_of(argument: &Argument) -> Doc {
    let aliases = argument.aliases.iter().map(|alias| Doc::text(literal(alias)));
    property(
        &argument.name,
        Doc::list("[", aliases.collect(), "]", Doc::SoftLine),
    )
}

/// Returns the constant of the service, after a blank line.
fn service_constant(service: &Service, names: &Names) -> String {
    let docs = format!("The service {}.", quoted(&service.name));
    let mut written = format!(
        "\n{}export const {} = rpc.service({{\n",
        jsdoc(&docs, 0),
        names.service
    );
    for (key, value) in [("name", &service.name), ("queue", &service.queue)] {
        written.push_str(&format!("  {key}: {},\n", literal(value)));
    }
    written.push_str("  methods,\n");
    let parts: Vec<_> = chunks(&service.description, PART)
        .iter()
        .map(|part| literal(part))
        .collect();
    match parts.as_slice() {
        [only] if only.len() + "  description: ,".len() <= WIDTH => {
            written.push_str(&format!("  description: {only},\n"));
        }
        parts => written.push_str(&format!("  description:\n    {},\n", parts.join(" +\n    "))),
    }
    written.push_str("});\n");
    written
}
