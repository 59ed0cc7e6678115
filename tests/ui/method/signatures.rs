//! Methods that cannot be called from afar.
use rpc_runtime::service;

#[service]
trait Signatures {
    fn blocking(&self);
    async fn by_value(self);
    async fn exclusive(&mut self);
    async fn nobody();
    async fn generic<T>(&self, value: T);
    async fn clause(&self)
    where
        Self: Sized;
    async unsafe fn dangerous(&self);
}

fn main() {}
