//! What a service is, as data.
//!
//! A [`ServiceDescriptor`] is what the [`service`](crate::service) attribute knows of a trait, as a constant: callers and workers read
//! it. A [`ServiceDescription`] is the same to keep, send and compare: it owns what it says, and can be written and read with serde.
//!
//! ```
//! use rpc_runtime::describe::ServiceDescription;
//! use rpc_runtime::{ServiceClient, service};
//!
//! #[service(queue = "users")]
//! trait Directory {
//!     /// The e-mail address of one user.
//!     async fn get_email(&self, id: &str) -> Result<String, u16>;
//! }
//!
//! let description = ServiceDescription::from(DirectoryClient::SERVICE);
//! assert_eq!(description.methods[0].signature(), "get_email(id: &str) -> Result<String, u16>");
//!
//! let json = serde_json::to_string(&description)?;
//! assert_eq!(serde_json::from_str::<ServiceDescription>(&json)?, description);
//! # Ok::<_, serde_json::Error>(())
//! ```

//!
//! With the cargo feature `schema`, the description of a service with `#[service(schema)]` has JSON Schemas too.
//!
#![cfg_attr(feature = "schema", doc = "```")]
#![cfg_attr(not(feature = "schema"), doc = "```ignore")]
//! use rpc_runtime::{ServiceClient, service};
//! use serde_json::json;
//!
//! #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
//! struct User {
//!     /// Unique.
//!     id: u64,
//! }
//!
//! #[service(schema)]
//! trait Directory {
//!     async fn find(&self, text: &str) -> Vec<User>;
//! }
//!
//! let description = DirectoryClient::SERVICE.description();
//! let find = description.method("find").unwrap();
//! assert_eq!(find.result_schema, Some(json!({"type": "array", "items": {"$ref": "#/definitions/User"}})));
//! assert_eq!(description.definitions["User"]["properties"]["id"]["description"], "Unique.");
//! ```

pub mod asyncapi;
mod built_in;
pub mod changes;
mod description;
mod descriptor;
mod references;
pub(crate) mod schemas;
mod worker;
mod worker_stats;

pub(crate) use built_in::{BUILT_IN, DESCRIBE, PING, STATS, is_built_in};
pub use description::{ArgumentDescription, MethodDescription, ServiceDescription};
pub use descriptor::{ArgumentDescriptor, MethodDescriptor, ServiceDescriptor};
pub use worker::{QueueDescription, Worker, WorkerDescription};
pub use worker_stats::{MethodStats, QueueStats, WorkerStats};
