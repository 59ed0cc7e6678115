//! Methods with one modifier too many, each alone.
use rpc_runtime::service;

#[service]
trait Unsafe {
    async unsafe fn f(&self);
}

#[service]
trait Extern {
    async extern "C" fn f(&self);
}

#[service]
trait OneWay {
    #[rpc(oneway)]
    async fn f(&self) -> u8;
}

#[service]
trait Never {
    async fn f(&self) -> !;
}

#[service]
trait InFull {
    async fn f(self: &Self, _used: u8);
}

fn main() {}
