//! From [`Service`](crate::model::Service) to code.
//!
//! Generated code depends on nothing at the place where it is expanded:
//!
//! - Every path is absolute or is written by the user. Items that only generated code uses are in
//!   an unnamed constant.
//! - Bindings are hygienic, so they cannot collide with the names of arguments. Every name that
//!   shares a scope with the user's begins with two underscores, except the client, its functions,
//!   and the server with its parameter `T`: a binding that has the name of a user's constant would
//!   be a pattern that matches this constant.
//! - Methods are called by path, unless they take the receiver as it is. If the compiler had to
//!   borrow it, method syntax would prefer a method of the same name that takes it by value, from a
//!   trait that is implemented for all types.

mod alternatives;
mod argument_structs;
mod arguments;
mod checks;
mod client;
mod descriptor;
mod generics;
mod lifetimes;
mod names;
mod refused;
mod refused_trait;
mod schemas;
mod serde_functions;
mod server;
mod service;
mod service_trait;
mod spans;

pub(crate) use self::refused::refusal;
pub(crate) use self::service::service;
