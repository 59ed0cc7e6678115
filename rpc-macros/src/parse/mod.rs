//! Reads a [`Service`](crate::model::Service), or the reasons to refuse it, from a trait and the
//! attribute's arguments.

mod errors;
mod method;
mod names;
mod options;
mod parameter;
mod placement;
mod serde;
mod service;
mod settings;
mod types;
mod values;

pub(crate) use self::service::service;
