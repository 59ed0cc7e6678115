//! Writes a module in Python.

mod classes;
mod declarations;
mod imports;
mod methods;
mod naming;
mod text;
mod types;

use super::docs;
use super::model::Service;
use naming::Names;

/// Writes the module of a service.
pub(super) fn module(service: &Service) -> String {
    let names = Names::new(service);
    let mut module = header(service);
    module.push_str(&imports::imports(service, &names));
    let declarations = declarations::declarations(service, &names);
    if !declarations.is_empty() {
        module.push_str("\n# Types.\n");
        module.push_str(&declarations);
        module.push('\n');
    }
    module.push_str(&methods::methods(service, &names));
    module.push_str(&classes::client(service, &names));
    module.push_str(&classes::worker(service, &names));
    module
}

fn header(service: &Service) -> String {
    let about = format!("The service {}, from Python.", docs::quoted(&service.name));
    let origin = "Written by `rpc generate python`: do not edit it. Its format is that of `ruff format\n--line-length 100`.";
    let docs = match service.docs.trim() {
        "" => format!("{about}\n\n{origin}"),
        docs => format!("{about}\n\n{docs}\n\n{origin}"),
    };
    text::docstring(&docs, 0)
}
