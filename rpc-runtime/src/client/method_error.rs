//! The error that a method of a described service returns.

use std::fmt;

/// The error that a method returned to a [`DynamicClient`](crate::DynamicClient): a JSON value, or
/// its text for [`call_json`](crate::DynamicClient::call_json).
///
/// It is a [`std::error::Error`], so `?` converts a failed call into a boxed error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodError<T = serde_json::Value>(T);

impl<T> MethodError<T> {
    /// Creates the error of a method, for example for tests.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value that the method returned.
    pub fn value(&self) -> &T {
        &self.0
    }

    /// Converts the error to the value that the method returned.
    pub fn into_value(self) -> T {
        self.0
    }
}

/// Shows the value as JSON.
impl<T: fmt::Display> fmt::Display for MethodError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Debug + fmt::Display> std::error::Error for MethodError<T> {}
