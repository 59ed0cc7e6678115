//! Lifetimes, and bounds on the implementation.
use rpc_runtime::service;

#[service]
trait Borrowing<'a, T: 'static>
where
    Self: Sized,
{
    async fn f(&self);
}

fn main() {}
