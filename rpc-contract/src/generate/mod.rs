//! Clients and workers in other languages, from the description of a service.
//!
//! [`module`] writes one module of source code. It declares the service's types, a client and the
//! base of a worker, and imports the package `rpc-runtime` of its language, which does the rest.
//!
//! `read` makes the `model` of a service, independent of any language. `python` and `typescript`
//! give its parts names that the language allows, and write it. They break lines with `layout`
//! where `ruff format` and prettier break them, so that these change nothing. `schemas` uses the
//! model for another purpose: it makes JSON Schemas for a description that has none.

mod docs;
mod json;
mod layout;
mod literals;
mod model;
mod order;
#[cfg(test)]
mod property_tests;
mod python;
mod read;
mod schemas;
mod typescript;

use crate::ServiceDescription;
pub use schemas::with_schemas;

/// A language in which [`module`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Language {
    /// Python 3.11 or later.
    Python,
    /// TypeScript 5 or later, as an ES module.
    TypeScript,
}

/// Writes the module of a service.
///
/// The types are exact if the service has `#[service(schema)]`. Otherwise only those of the
/// standard library and a few common others, such as UUIDs, are known, and a value of any other
/// type may be anything. The same description always gives the same module.
///
/// The description may come from a peer: whatever is in it, the module is valid, and contains
/// nothing but declarations. Names that the language does not allow are changed; on the wire they
/// stay. Methods that cannot be called by their names are left out, such as the second of two with
/// the same name.
///
/// ```
/// use rpc_contract::generate::{Language, module};
/// use rpc_contract::{MethodDescription, ServiceDescription};
///
/// let mut service = ServiceDescription::new("Directory", "users");
/// service.methods.push(MethodDescription::new("count"));
///
/// let python = module(&service, Language::Python);
/// assert!(python.contains("class DirectoryClient(rpc_runtime.Client):"));
/// let typescript = module(&service, Language::TypeScript);
/// assert!(typescript.contains("export class DirectoryClient extends rpc.Client {"));
/// ```
#[must_use]
pub fn module(service: &ServiceDescription, language: Language) -> String {
    let service = read::service(service);
    match language {
        Language::Python => python::module(&service),
        Language::TypeScript => typescript::module(&service),
    }
}
