//! The client, and what a worker implements.

use super::super::docs::quoted;
use super::super::layout::Doc;
use super::super::model::{Method, Service, Type};
use super::methods::{is_optional, returns_nothing};
use super::naming::{MethodNames, Names};
use super::text::STEP;
use super::text::{is_identifier, jsdoc, lines, literal};
use super::types::TypeWriter;

/// How a method is called.
struct Call {
    /// The function of the package that makes the call.
    function: &'static str,
    /// The type of its options.
    options: &'static str,
    /// The generic type that it returns.
    returns: &'static str,
}

fn call_of(method: &Method) -> Call {
    let (function, options, returns) = match method {
        Method {
            is_broadcast: true,
            is_oneway: true,
            ..
        } => ("broadcastOneway", "CallOptions", "Promise"),
        Method {
            is_broadcast: true, ..
        } => ("broadcast", "BroadcastOptions", "rpc.Gather"),
        Method { is_oneway: true, .. } => ("send", "SendOptions", "Promise"),
        Method {
            is_streaming: true,
            incoming: Some(_),
            ..
        } => ("duplex", "StreamOptions", "rpc.ItemStream"),
        Method {
            is_streaming: true, ..
        } => ("stream", "StreamOptions", "rpc.ItemStream"),
        Method {
            incoming: Some(_), ..
        } => ("upload", "CallOptions", "Promise"),
        _ => ("call", "CallOptions", "Promise"),
    };
    Call {
        function,
        options,
        returns,
    }
}

/// Returns the client, after a blank line.
pub(super) fn client(service: &Service, names: &Names) -> String {
    let types = TypeWriter::new(service, names);
    let docs = format!("Calls the service {}.", quoted(&service.name));
    let mut written = format!("\n{}", jsdoc(&docs, 0));
    written.push_str(&lines(
        &Doc::text(format!("export class {} extends rpc.Client {{", names.client)),
        0,
    ));
    written.push_str(&format!(
        "  constructor(connection: rpc.Connection, options: rpc.ClientOptions = {{}}) {{\n    super(connection, {}, options);\n  }}\n",
        names.service
    ));
    for (method, names) in service.methods.iter().zip(&names.methods) {
        written.push_str(&client_method(method, names, &types));
    }
    written.push_str("}\n");
    written
}

/// Returns the method of the client that makes a call, after a blank line.
fn client_method(method: &Method, names: &MethodNames, types: &TypeWriter<'_>) -> String {
    let call = call_of(method);
    let mut parameters = parameters(method, names, types);
    let mut arguments = vec![
        Doc::text(format!("methods.{}", names.function)),
        arguments_of(method, names),
    ];
    if let Some(item) = &method.incoming {
        let (name, item) = (&names.items, types.ty(item));
        parameters.push(Doc::text(format!("{name}: rpc.Items<{item}>")));
        arguments.push(Doc::text(&names.items));
    }
    parameters.push(Doc::text(format!("options?: rpc.{}", call.options)));
    arguments.push(Doc::text("options"));
    let result = format!("{}<{}>", call.returns, result(method, types));
    let signature = function_of(&names.function, parameters, &result, " {");
    let body = Doc::Concat(vec![
        Doc::text(format!("return this.$.{}", call.function)),
        Doc::list("(", arguments, ")", Doc::SoftLine),
        Doc::text(";"),
    ]);
    let docs = jsdoc(&method.docs, STEP);
    let (signature, body) = (lines(&signature, STEP), lines(&body, 2 * STEP));
    format!("\n{docs}{signature}{body}  }}\n")
}

/// Returns the interface of a worker, and the function that makes a worker ready to be served,
/// after a blank line.
pub(super) fn worker(service: &Service, names: &Names) -> String {
    let types = TypeWriter::new(service, names);
    let docs = format!("What serves the service {}.", quoted(&service.name));
    let mut written = format!("\n{}export interface {} {{", jsdoc(&docs, 0), names.worker);
    written.push_str(if service.methods.is_empty() { "}\n" } else { "\n" });
    for (method, names) in service.methods.iter().zip(&names.methods) {
        let mut parameters = parameters(method, names, &types);
        if let Some(item) = &method.incoming {
            let (name, item) = (&names.items, types.ty(item));
            parameters.push(Doc::text(format!("{name}: AsyncIterableIterator<{item}>")));
        }
        parameters.push(Doc::text("context: rpc.Context"));
        let generic = if method.is_streaming {
            "rpc.Items"
        } else {
            "rpc.Awaitable"
        };
        let result = format!("{generic}<{}>", result(method, &types));
        written.push_str(&jsdoc(&method.docs, STEP));
        written.push_str(&lines(
            &function_of(&names.function, parameters, &result, ";"),
            STEP,
        ));
    }
    if !service.methods.is_empty() {
        written.push_str("}\n");
    }
    written.push_str(&implement(service, names));
    written
}

/// Returns the type of the result or, if the method returns a stream, of its items.
fn result(method: &Method, types: &TypeWriter<'_>) -> String {
    if returns_nothing(method) {
        "void".to_owned()
    } else {
        types.ty(&method.returns)
    }
}

/// Returns the parameters for the arguments, without those that follow, such as `options`.
fn parameters(method: &Method, names: &MethodNames, types: &TypeWriter<'_>) -> Vec<Doc> {
    let arguments = method.arguments.iter().zip(&names.arguments);
    let parameters = arguments.map(|(argument, name)| {
        let absent = match (is_optional(argument), &argument.ty) {
            // `unknown` includes `undefined`.
            (false, _) | (true, Type::Any) => "",
            (true, _) => " | undefined",
        };
        Doc::text(format!("{name}: {}{absent}", types.ty(&argument.ty)))
    });
    parameters.collect()
}

/// Returns the signature of a function. `end` is what follows the type of its result.
fn function_of(name: &str, parameters: Vec<Doc>, result: &str, end: &str) -> Doc {
    Doc::Concat(vec![
        Doc::text(name),
        Doc::list("(", parameters, ")", Doc::SoftLine),
        Doc::text(format!(": {result}{end}")),
    ])
}

/// Returns the object with the arguments of a call.
fn arguments_of(method: &Method, names: &MethodNames) -> Doc {
    let arguments = method.arguments.iter().zip(&names.arguments);
    let arguments = arguments.map(|(argument, name)| {
        if argument.name == *name {
            Doc::text(name)
        } else {
            super::descriptors::property(&argument.name, Doc::text(name))
        }
    });
    Doc::list("{", arguments.collect(), "}", Doc::Line)
}

/// Returns the function that joins a worker and the service, after a blank line.
fn implement(service: &Service, names: &Names) -> String {
    let docs = "Makes an implementation ready for `rpc.serve`.";
    let head = Doc::text(format!(
        "export function {}(worker: {}): rpc.Implementation {{",
        names.implement, names.worker
    ));
    let mut written = format!("\n{}{}", jsdoc(docs, 0), lines(&head, 0));
    if service.methods.is_empty() {
        // There is no method to call: `void` marks the parameter as used.
        written.push_str(&format!(
            "  void worker;\n  return rpc.implement({}, {{}});\n}}\n",
            names.service
        ));
        return written;
    }
    written.push_str(&format!("  return rpc.implement({}, {{\n", names.service));
    for (method, names) in service.methods.iter().zip(&names.methods) {
        written.push_str(&lines(&handler(method, names), 2 * STEP));
    }
    written.push_str("  });\n}\n");
    written
}

/// Returns the property whose function calls the worker's method with the arguments of a request.
fn handler(method: &Method, names: &MethodNames) -> Doc {
    let access = |name: &str| {
        if is_identifier(name) {
            format!("args.{name}")
        } else {
            format!("args[{}]", literal(name))
        }
    };
    let mut arguments: Vec<_> = method
        .arguments
        .iter()
        .map(|it| Doc::text(access(&it.name)))
        .collect();
    let args = if arguments.is_empty() { "_" } else { "args" };
    let items = if method.incoming.is_some() { "items, " } else { "" };
    if method.incoming.is_some() {
        arguments.push(Doc::text("items"));
    }
    arguments.push(Doc::text("context"));
    let call = Doc::Concat(vec![
        Doc::text(format!("worker.{}", names.function)),
        Doc::list("(", arguments, ")", Doc::SoftLine),
    ]);
    Doc::Concat(vec![
        Doc::Group(vec![
            Doc::text(format!("{}: ({args}, {items}context) =>", names.function)),
            Doc::Indent(vec![Doc::Line, call]),
        ]),
        Doc::text(","),
    ])
}
