//! A service as an [AsyncAPI](https://www.asyncapi.com/docs/reference/specification/v3.0.0)
//! document.
//!
//! From it, other tools make documentation pages, catalogues, and types in other languages.

mod channels;
mod document;
mod messages;
mod operations;
mod options;
mod parts;
mod schemas;
mod server;

use serde_json::Value;

use crate::ServiceDescription;
pub use options::{AsyncApi, Options, View};
pub use server::{InvalidServer, Server};

/// Makes the AsyncAPI 3.0 document of a service, as its workers see it. `version` is the version of
/// the service's interface.
///
/// [`Options`] makes other documents, and says what they contain.
///
/// ```
/// use rpc_contract::{MethodDescription, ServiceDescription, asyncapi};
///
/// let mut service = ServiceDescription::new("Directory", "users");
/// service.methods.push(MethodDescription::new("get_email"));
///
/// let document = asyncapi::document(&service, "1.0.0");
/// assert_eq!(document["channels"]["requests"]["address"], "users");
/// assert_eq!(document["operations"]["get_email"]["action"], "receive");
/// ```
#[must_use]
pub fn document(service: &ServiceDescription, version: &str) -> Value {
    Options::new(version).document(service)
}
