//! Writes a module in TypeScript.

mod classes;
mod declarations;
mod descriptors;
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
    module.push_str("import * as rpc from \"rpc-runtime\";\n");
    let declarations = declarations::declarations(service, &names);
    // A match in documentation does no harm: it is beside descriptors, which need `t`.
    if declarations.contains("t.") || methods::mentions_t(service) {
        module.push_str("import { t } from \"rpc-runtime\";\n");
    }
    module.push_str(&declarations);
    module.push_str(&methods::methods(service, &names));
    module.push_str(&classes::client(service, &names));
    module.push_str(&classes::worker(service, &names));
    module
}

fn header(service: &Service) -> String {
    let about = format!("The service {}, from TypeScript.", docs::quoted(&service.name));
    let origin = "Written by `rpc generate typescript`: do not edit it. Its format is that of prettier with a\n`printWidth` of 100.";
    let docs = match service.docs.trim() {
        "" => format!("{about}\n\n{origin}"),
        docs => format!("{about}\n\n{docs}\n\n{origin}"),
    };
    text::comment(&docs)
}
