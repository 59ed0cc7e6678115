//! What both directions of the plain-text codec share: its errors, and the name of arguments.

/// The name of the struct that arguments are serialized as. It distinguishes arguments from a
/// user's own struct.
pub(crate) const ARGUMENTS_STRUCT: &str = "$rpc_runtime::arguments";

/// A value or method that plain text cannot carry, or a text that is not the expected scalar.
#[derive(Debug, thiserror::Error)]
pub(super) enum TextError {
    #[error("text/plain cannot carry {0}: use application/msgpack or application/json")]
    NotScalar(&'static str),
    #[error(
        "text/plain carries one argument, and the method takes {0}: use application/msgpack or application/json"
    )]
    ArgumentCount(usize),
    #[error("{0}")]
    Custom(String),
}

impl serde::ser::Error for TextError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

impl serde::de::Error for TextError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}
