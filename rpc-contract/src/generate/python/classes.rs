//! The client and the base of a worker.

use super::super::docs::quoted;
use super::super::layout::{Doc, WIDTH};
use super::super::model::{Method, Service, Type};
use super::declarations::{absent, class, documented, type_or_absent};
use super::naming::{MethodNames, Names};
use super::text::{STEP, docstring};
use super::types::{TypeWriter, generic_of_one};

/// For whom a method is written.
enum Side {
    Client,
    Worker,
}

/// How a method is called.
struct Call {
    is_async: bool,
    /// The function of the client's base class that makes the call.
    function: &'static str,
    /// The beginning, with `[`, of the generic type that it returns. `None` if it returns the
    /// result itself, or nothing.
    returns: Option<&'static str>,
}

impl Call {
    fn of(method: &Method) -> Self {
        let (is_async, function, returns) = match method {
            Method {
                is_broadcast: true,
                is_oneway: true,
                ..
            } => (true, "_broadcast_oneway", None),
            Method {
                is_broadcast: true, ..
            } => (false, "_broadcast", Some("rpc_runtime.Answers[")),
            Method { is_oneway: true, .. } => (true, "_send", None),
            Method {
                is_streaming: true,
                incoming: Some(_),
                ..
            } => (false, "_stream_with_items", Some("rpc_runtime.ResultStream[")),
            Method {
                is_streaming: true, ..
            } => (false, "_stream", Some("rpc_runtime.ResultStream[")),
            Method {
                incoming: Some(_), ..
            } => (true, "_call_with_items", None),
            _ => (true, "_call", None),
        };
        Self {
            is_async,
            function,
            returns,
        }
    }
}

/// Returns the client under a heading, after two blank lines.
pub(super) fn client(service: &Service, names: &Names) -> String {
    let types = TypeWriter::new(service, names);
    let mut body = "    _service = _SERVICE\n".to_owned();
    for (method, names) in service.methods.iter().zip(&names.methods) {
        let call = Call::of(method);
        let result = match call.returns {
            Some(generic) => generic_of_one(generic, types.ty(&method.returns)),
            None => result_type(method, &types),
        };
        let parameters = parameters(method, names, &types, Side::Client);
        body.push('\n');
        body.push_str(&signature(call.is_async, &names.function, parameters, result));
        let docs = documented(&method.docs, || format!("Calls {}.", quoted(&method.name)));
        body.push_str(&docstring(&docs, 2 * STEP));
        body.push_str(&client_body(&call, method, names));
    }
    let docs = format!("Calls the service {}.", quoted(&service.name));
    format!(
        "\n\n# Callers.\n{}",
        class("", &names.client, Some("rpc_runtime.Client"), &docs, &body)
    )
}

/// Returns the base of a worker under a heading, after two blank lines.
pub(super) fn worker(service: &Service, names: &Names) -> String {
    let types = TypeWriter::new(service, names);
    let mut body = "    _service = _SERVICE\n".to_owned();
    for (method, names) in service.methods.iter().zip(&names.methods) {
        let result = if method.is_streaming {
            generic_of_one("AsyncIterator[", types.ty(&method.returns))
        } else {
            result_type(method, &types)
        };
        let parameters = parameters(method, names, &types, Side::Worker);
        body.push_str("\n    @abc.abstractmethod\n");
        // A stream is a `def`: an `async def` without `yield` gives a coroutine, and no iterator.
        body.push_str(&signature(
            !method.is_streaming,
            &names.function,
            parameters,
            result,
        ));
        let docs = documented(&method.docs, || format!("Answers {}.", quoted(&method.name)));
        body.push_str(&docstring(&docs, 2 * STEP));
    }
    let docs = format!("Serves the service {}.", quoted(&service.name));
    format!(
        "\n\n# Workers.\n{}",
        class("", &names.worker, Some("rpc_runtime.Worker"), &docs, &body)
    )
}

fn result_type(method: &Method, types: &TypeWriter<'_>) -> Doc {
    if method.is_oneway {
        Doc::text("None")
    } else {
        types.annotation(&method.returns)
    }
}

/// Returns the parameters: `self`, the arguments, and last the items that the method receives, if
/// any. In a client, optional arguments have defaults if nothing after them is required.
fn parameters(method: &Method, names: &MethodNames, types: &TypeWriter<'_>, side: Side) -> Vec<Doc> {
    let (has_defaults, generic_of_items) = match side {
        Side::Client => (true, "rpc_runtime.Items["),
        Side::Worker => (false, "AsyncIterator["),
    };
    let last_required = method
        .arguments
        .iter()
        .rposition(|argument| !argument.is_optional);
    let first_with_default = match method.incoming {
        // The items are the last parameter, and required.
        Some(_) => method.arguments.len(),
        None => last_required.map_or(0, |last| last + 1),
    };
    let mut parameters = vec![Doc::text("self")];
    for (index, (argument, name)) in method.arguments.iter().zip(&names.arguments).enumerate() {
        let (absent, default) = absent(&argument.ty, !argument.is_optional);
        let ty = type_or_absent(types.ty(&argument.ty), absent);
        let mut parameter = vec![Doc::text(format!("{name}: ")), ty];
        if has_defaults && index >= first_with_default {
            parameter.extend(default.map(|default| Doc::text(format!(" = {default}"))));
        }
        parameters.push(Doc::Concat(parameter));
    }
    if let Some(item) = &method.incoming {
        parameters.push(Doc::Concat(vec![
            Doc::text(format!("{}: ", names.items)),
            generic_of_one(generic_of_items, types.ty(item)),
        ]));
    }
    parameters
}

/// Returns the signature of a method, up to the colon, on as many lines as it takes.
fn signature(is_async: bool, name: &str, parameters: Vec<Doc>, result: Doc) -> String {
    let keyword = if is_async { "async def" } else { "def" };
    let mut within = vec![Doc::SoftLine];
    within.extend(Doc::joined(
        parameters,
        &Doc::Concat(vec![Doc::text(","), Doc::Line]),
    ));
    within.push(Doc::IfBroken(","));
    // Not a `Doc::list`, which would be a group of its own: if only the result does not fit, the
    // formatters of Python break the parameters rather than the brackets of the result.
    let signature = Doc::Group(vec![
        Doc::text(format!("{keyword} {name}(")),
        Doc::Indent(within),
        Doc::SoftLine,
        Doc::text(") -> "),
        result,
        Doc::text(":"),
    ]);
    format!("    {}\n", signature.render(WIDTH, STEP, STEP))
}

/// Returns the body of a client's method.
fn client_body(call: &Call, method: &Method, names: &MethodNames) -> String {
    let mut arguments = vec![Doc::text(&names.constant)];
    if method.incoming.is_some() {
        arguments.push(Doc::text(&names.items));
    }
    arguments.extend(names.arguments.iter().map(Doc::text));
    let has_result = !method.is_oneway && method.returns != Type::Unit;
    let keywords = match (call.is_async, has_result) {
        (true, true) => "return await",
        (true, false) => "await",
        (false, _) => "return",
    };
    let call = Doc::Concat(vec![
        Doc::text(format!("{keywords} self.{}", call.function)),
        Doc::list("(", arguments, ")", Doc::SoftLine),
    ]);
    format!("        {}\n", call.render(WIDTH, 2 * STEP, STEP))
}
