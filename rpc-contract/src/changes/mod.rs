//! Compares two versions of a service and says whom each change breaks.
//!
//! While a service is updated, old callers call new workers and new callers call old workers.
//! [`compare`] lists the changes from an old description to a new one, and what each does to the
//! peers that are not updated yet:
//!
//! ```
//! use rpc_contract::changes::{Rollout, Verdict, compare};
//! use rpc_contract::{ArgumentDescription, MethodDescription, ServiceDescription};
//!
//! let mut old = ServiceDescription::new("Search", "search");
//! let mut find = MethodDescription::new("find");
//! find.arguments.push(ArgumentDescription::new("text", "&str"));
//! old.methods.push(find);
//!
//! let mut new = old.clone();
//! new.methods[0].arguments.push(ArgumentDescription::new("limit", "u32"));
//!
//! let changes = compare(&old, &new);
//! assert_eq!(changes[0].verdict, Verdict::BreaksCallers);
//! assert_eq!(
//!     changes[0].to_string(),
//!     "breaks old callers: find(limit): old callers do not send it, and new workers answer `bad_request`; \
//!      give it `#[serde(default)]`, or make it an `Option`",
//! );
//! assert_eq!(Rollout::of(&changes), Rollout::CallersFirst);
//! ```
//!
//! The rules are those of `docs/protocol.md`. Types are compared by the JSON Schemas that
//! `#[service(schema)]` makes. Without schemas there are only the names of types, which do not show
//! changes within them; [`Comparison::by_name`] lists the methods to which this applies. A schema
//! does not show everything either: it does not show the width of integers that are keys of a map,
//! or what a program does with a value.

mod answers;
mod arguments;
mod change;
mod comparison;
mod normalize;
mod numbers;
mod schemas;
mod shapes;
#[cfg(test)]
mod tests;
mod text;
mod types;

pub use change::{Change, Place, Rollout, Verdict};
pub use comparison::{Comparison, compare};
