//! Reading a request's arguments so that the compiler tells what is wrong with their types.
//!
//! [`Invocation::arguments`] reads them all as one type, and of one that cannot be read the compiler knows no better place than that
//! call. The functions here have a type parameter for each argument: the compiler underlines the type that the user wrote.

use std::marker::PhantomData;

use serde::Deserialize;

use super::context::Context;
use super::invocation::Invocation;
use crate::describe::MethodDescriptor;
use crate::protocol::Fault;

/// What a worker can read. Implemented for all that can be.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a service's method",
    note = "a worker deserializes it: derive or implement `serde::Deserialize`",
    note = "the parameter that the worker fills in is marked `#[rpc(context)]`"
)]
pub trait Argument<'de>: Deserialize<'de> {}

impl<'de, T: Deserialize<'de>> Argument<'de> for T {}

/// What a worker can hand to a method on another thread: all that is `Send`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a service's method, which may run on another thread",
    label = "this is not `Send`",
    note = "take a type of which all parts are `Send`, such as one with an `Arc` in place of an `Rc`"
)]
pub trait Movable: Send {}

#[diagnostic::do_not_recommend]
impl<T: Send> Movable for T {}

/// What a worker can lend to a method on another thread: all that is `Sync`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be lent to a service's method, which may run on another thread",
    label = "this is not `Sync`",
    note = "take it by value, or take a type of which all parts are `Sync`"
)]
pub trait Lendable: Sync {}

#[diagnostic::do_not_recommend]
impl<T: Sync + ?Sized> Lendable for T {}

/// An argument as a method takes it that takes a reference.
pub fn lend<T: Lendable + ?Sized>(argument: &T) -> &T {
    argument
}

/// A slice of arguments as a method takes it.
pub fn lend_slice<T: Lendable>(arguments: &[T]) -> &[T] {
    arguments
}

/// Tells whether a type is [`Context`], whatever its name: `Candidate::<T>::IS_CONTEXT`, with [`NoContext`] in scope. The
/// constant below is found first, and only where it is there.
#[derive(Debug)]
pub struct Candidate<T>(PhantomData<T>);

impl Candidate<Context> {
    /// [`Context`] is the one.
    pub const IS_CONTEXT: bool = true;
}

/// What [`Candidate`] says of all other types.
pub trait NoContext {
    /// Others are none.
    const IS_CONTEXT: bool = false;
}

impl<T> NoContext for Candidate<T> {}

/// A type that goes by the name of `Context` and is another, so that it can be sent. Where it is the context, the compiler says
/// so, and knows too little of `Sent` to say anything else.
#[diagnostic::on_unimplemented(
    message = "the worker's `Context` is not sent by the caller, so it cannot be an argument",
    label = "mark this parameter `#[rpc(context)]`, for the worker to fill it in"
)]
pub trait OtherContext<const IS_CONTEXT: bool> {
    /// The type itself.
    type Sent;

    /// The argument, on its way out.
    fn sent(&self) -> &Self::Sent;

    /// The argument, as it is handed to the method.
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
        /// Those of [`Invocation::arguments`].
        #[allow(clippy::needless_lifetimes)] // of the one without arguments
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
