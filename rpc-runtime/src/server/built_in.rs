//! The methods that the runtime adds to every service.

/// What the names of built-in methods begin with, and those of no others.
const PREFIX: &str = "rpc.";

/// Whether a method of this name is a built-in one.
pub(crate) fn is_built_in(method: &str) -> bool {
    method.starts_with(PREFIX)
}
