//! What a service of [rpc-runtime](https://docs.rs/rpc-runtime) is, as data.
//!
//! A [`ServiceDescription`] says what the trait of a service says: its methods, their arguments,
//! what they return, and, if the trait has `#[service(schema)]`, the JSON Schemas of these types.
//! Workers send it in reply to `rpc.describe`, and `rpc describe --json` writes it to a file.
//! This crate reads, writes and compares descriptions. It needs neither a broker nor the runtime.
//!
//! ```
//! use rpc_contract::ServiceDescription;
//!
//! let json = r#"{"name": "Directory", "queue": "users", "methods": [{"name": "count", "returns": "u64"}]}"#;
//! let service: ServiceDescription = serde_json::from_str(json)?;
//! assert_eq!(service.methods[0].signature(), "count() -> u64");
//! # Ok::<_, serde_json::Error>(())
//! ```
//!
//! The cargo feature `tools`, which is on by default, adds what only tools need:
//!
//! - `asyncapi` makes an AsyncAPI document of a description,
//! - `changes` compares two versions of a service and says whom each change breaks,
//! - `generate` writes clients and workers in other languages,
//! - `definition_name` reads the name of a definition from a reference to it.

#[cfg(feature = "tools")]
pub mod asyncapi;
#[cfg(feature = "tools")]
pub mod changes;
mod description;
#[cfg(feature = "tools")]
pub mod generate;
#[cfg(feature = "tools")]
mod keywords;
#[cfg(feature = "tools")]
mod names;
#[cfg(feature = "tools")]
mod references;

pub use description::{ArgumentDescription, MethodDescription, RetryDescription, ServiceDescription};
#[cfg(feature = "tools")]
pub use references::definition_name;

/// The README's example compiles and runs.
#[cfg(all(doctest, feature = "tools"))]
#[doc = include_str!("../README.md")]
struct Readme;
