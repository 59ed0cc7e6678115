//! Reads the arguments of a request so that compiler errors point at their types.
//!
//! [`Invocation::arguments`] reads all arguments as one tuple, so an error would point at that
//! call. The functions here have a type parameter for each argument, so an error points at the type
//! that the user wrote.

use std::marker::PhantomData;

use serde::Deserialize;

use super::context::Context;
use super::invocation::Invocation;
use crate::describe::MethodDescriptor;
use crate::protocol::Fault;

/// A type that a worker can deserialize.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a service's method",
    note = "a worker deserializes it: derive or implement `serde::Deserialize`",
    note = "the parameter that the worker fills in is marked `#[rpc(context)]`"
)]
pub trait Argument<'de>: Deserialize<'de> {}

impl<'de, T: Deserialize<'de>> Argument<'de> for T {}

/// A type that a worker can move to a method on another thread: every type that is `Send`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a service's method, which may run on another thread",
    label = "this is not `Send`",
    note = "use a type whose parts are all `Send`, such as an `Arc` instead of an `Rc`"
)]
pub trait Movable: Send {}

#[diagnostic::do_not_recommend]
impl<T: Send> Movable for T {}

/// A type that a worker can lend to a method on another thread: every type that is `Sync`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be lent to a service's method, which may run on another thread",
    label = "this is not `Sync`",
    note = "take it by value, or use a type whose parts are all `Sync`"
)]
pub trait Lendable: Sync {}

#[diagnostic::do_not_recommend]
impl<T: Sync + ?Sized> Lendable for T {}

/// Returns an argument for a method that takes a reference.
pub fn lend<T: Lendable + ?Sized>(argument: &T) -> &T {
    argument
}

/// Returns an argument for a method that takes a slice. The type parameter is the element, so the
/// compiler reports an element type that cannot be lent, not the slice.
pub fn lend_slice<T: Lendable>(argument: &[T]) -> &[T] {
    argument
}

/// Tells whether a type is [`Context`], whatever its name: `IsContext::<T>::IS_CONTEXT`, with
/// [`NoContext`] in scope. If the inherent constant exists, it takes precedence over that of the
/// trait.
#[derive(Debug)]
pub struct IsContext<T>(PhantomData<T>);

impl IsContext<Context> {
    /// `T` is [`Context`].
    pub const IS_CONTEXT: bool = true;
}

/// The answer of [`IsContext`] for all other types.
pub trait NoContext {
    /// `T` is not [`Context`].
    const IS_CONTEXT: bool = false;
}

impl<T> NoContext for IsContext<T> {}

/// Lets a type named `Context` be an argument unless it is [`Context`]. All types implement this
/// trait for `false`, and none for `true`; generated code passes `IsContext::IS_CONTEXT`. For
/// [`Context`] itself, the compiler reports only the missing implementation, because `Sent` is
/// unknown.
#[diagnostic::on_unimplemented(
    message = "the worker's `Context` is not sent by the caller, so it cannot be an argument",
    label = "mark this parameter `#[rpc(context)]`, for the worker to fill it in"
)]
pub trait OtherContext<const IS_CONTEXT: bool> {
    /// The type itself.
    type Sent;

    /// Returns the argument to send.
    fn sent(&self) -> &Self::Sent;

    /// Returns the argument for the method.
    fn received(sent: &Self::Sent) -> &Self;
}

impl<T> OtherContext<false> for T {
    type Sent = T;

    fn sent(&self) -> &T {
        self
    }

    fn received(sent: &T) -> &T {
        sent
    }
}

macro_rules! readers {
    ($($reader:ident($($argument:ident)*);)*) => {$(
        /// Reads this many arguments.
        ///
        /// # Errors
        ///
        /// Returns the errors of [`Invocation::arguments`].
        #[allow(clippy::needless_lifetimes)] // without arguments
        pub fn $reader<'a, $($argument: Argument<'a> + Movable),*>(
            invocation: &'a Invocation,
            method: &MethodDescriptor,
        ) -> Result<($($argument,)*), Fault> {
            invocation.arguments(method)
        }
    )*};
}

readers! {
    arguments_0();
    arguments_1(A);
    arguments_2(A B);
    arguments_3(A B C);
    arguments_4(A B C D);
    arguments_5(A B C D E);
    arguments_6(A B C D E F);
    arguments_7(A B C D E F G);
    arguments_8(A B C D E F G H);
    arguments_9(A B C D E F G H I);
    arguments_10(A B C D E F G H I J);
    arguments_11(A B C D E F G H I J K);
    arguments_12(A B C D E F G H I J K L);
    arguments_13(A B C D E F G H I J K L M);
    arguments_14(A B C D E F G H I J K L M N);
    arguments_15(A B C D E F G H I J K L M N O);
    arguments_16(A B C D E F G H I J K L M N O P);
}
