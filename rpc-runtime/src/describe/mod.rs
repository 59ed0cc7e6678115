//! Descriptions of services and workers, as data.
//!
//! A [`ServiceDescriptor`] is a constant that the [`service`](macro@crate::service) attribute
//! generates for a trait. Callers and workers read it. A [`ServiceDescription`] owns the same
//! content, with times in whole milliseconds: it can be stored, sent and compared, and is read and
//! written with serde.
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
//! The descriptions are types of the crate [`rpc_contract`]. It also makes AsyncAPI documents of
//! them and compares two versions of a service.
//!
//! With the cargo feature `schema`, the description of a service with `#[service(schema)]` has JSON
//! Schemas too.
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
//! let users = json!({"type": "array", "items": {"$ref": "#/definitions/User"}});
//! assert_eq!(find.result_schema, Some(users));
//! assert_eq!(description.definitions["User"]["properties"]["id"]["description"], "Unique.");
//! ```

mod built_in;
mod description;
mod descriptor;
mod retry_policy;
pub(crate) mod schemas;
mod worker;
mod worker_stats;

pub(crate) use built_in::{BUILT_IN, DESCRIBE, PING, STATS, is_built_in_name};
pub use descriptor::{ArgumentDescriptor, MethodDescriptor, ServiceDescriptor};
pub use retry_policy::RetryPolicy;
pub use rpc_contract::{ArgumentDescription, MethodDescription, RetryDescription, ServiceDescription};
pub use worker::{QueueDescription, Worker, WorkerDescription};
pub use worker_stats::{MethodStats, QueueStats, WorkerStats};
