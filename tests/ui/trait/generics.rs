//! Lifetimes, and bounds on the implementation.
use rpc_runtime::service;

#[service]
trait Borrowing<'a, T: 'static>
where
    Self: Sized,
{
    async fn f(&self);
    async fn g<'x: 'a>(&self, a: &'x T);
}

fn main() {}
