//! What generated code needs to know about the return type of a method.

/// A [`Result`], also behind an alias. Implemented for [`Result`] only.
///
/// The [`service`](macro@crate::service) attribute takes every return type named `Result` for one,
/// and finds the types of its value and its error through this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is named `Result` and is not one",
    label = "the service takes a return type named `Result` for `core::result::Result`",
    note = "rename the type, or return `Result<{Self}, YourError>`"
)]
pub trait ResultType {
    /// The type of the value if the method succeeds.
    type Ok;
    /// The type of the error if the method fails.
    type Err;
}

impl<T, E> ResultType for Result<T, E> {
    type Ok = T;
    type Err = E;
}

/// Tells generated code whether a type is a `Result`, whatever its name:
/// `IsResult::<T>::IS_RESULT`, with [`NoResult`] in scope. If the inherent constant exists, it
/// takes precedence over that of the trait.
#[doc(hidden)]
#[derive(Debug)]
pub struct IsResult<T>(std::marker::PhantomData<T>);

impl<T, E> IsResult<Result<T, E>> {
    /// `T` is a [`Result`].
    pub const IS_RESULT: bool = true;

    /// Returns the result.
    pub fn returned(result: Result<T, E>) -> Result<T, E> {
        result
    }
}

/// The answer of [`IsResult`] for all other types.
#[doc(hidden)]
pub trait NoResult {
    /// `T` itself.
    type Type;

    /// `T` is not a [`Result`].
    const IS_RESULT: bool = false;

    /// Drops the value and returns some result, so that the server's code compiles. The compiler
    /// already reports the type at the client's method.
    fn returned(_: Self::Type) -> Result<(), String>
    where
        Self::Type: Sized,
    {
        Ok(())
    }
}

impl<T> NoResult for IsResult<T> {
    type Type = T;
}
