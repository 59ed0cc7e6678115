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

mod description;
mod descriptor;

pub use description::{ArgumentDescription, MethodDescription, ServiceDescription};
pub use descriptor::{ArgumentDescriptor, MethodDescriptor, ServiceDescriptor};
