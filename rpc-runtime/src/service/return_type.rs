//! What generated code has to know of a method's return type.

/// A `Result`, seen through any alias.
///
/// Implemented for [`Result`] alone. The [`service`](crate::service) attribute takes a return type named `Result` for
/// one, and finds its error type through this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is named `Result` and is not one",
    label = "the service takes a return type named `Result` for `core::result::Result`",
    note = "rename the type, or return `Result<{Self}, YourError>`"
)]
pub trait ResultType {
    /// What the method returns where it succeeds.
    type Ok;
    /// What the method returns where it fails.
    type Err;
}

impl<T, E> ResultType for Result<T, E> {
    type Ok = T;
    type Err = E;
}

/// Tells generated code whether a type is a `Result`, whatever its name: `Probe::<T>::IS_RESULT`, with [`NoResult`]
/// in scope. The constant below is found first, and only where it is there.
#[doc(hidden)]
#[derive(Debug)]
pub struct Probe<T>(std::marker::PhantomData<T>);

impl<T, E> Probe<Result<T, E>> {
    /// A [`Result`] is one.
    pub const IS_RESULT: bool = true;

    /// What the method returned.
    pub fn returned(result: Result<T, E>) -> Result<T, E> {
        result
    }
}

/// What [`Probe`] says of all other types.
#[doc(hidden)]
pub trait NoResult {
    /// The other type.
    type Type;

    /// Others are none.
    const IS_RESULT: bool = false;

    /// Something to go on with, for what is only named `Result`: the compiler has said so of the client's method.
    fn returned(_: Self::Type) -> Result<(), String>
    where
        Self::Type: Sized,
    {
        Ok(())
    }
}

impl<T> NoResult for Probe<T> {
    type Type = T;
}
