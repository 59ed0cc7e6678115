//! From syntax to [`Service`](crate::model::Service).

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
