//! Methods under conditions that do not exclude each other.
use rpc_runtime::service;

#[service]
trait Alternatives {
    #[cfg(all())]
    #[rpc(default)]
    async fn read(&self) -> u8;
    #[cfg(not(any()))]
    #[rpc(name = "read")]
    async fn fetch(&self) -> u8;
    #[cfg_attr(all(), cfg(all()))]
    #[rpc(default)]
    async fn write(&self);
    #[cfg(any())]
    #[rpc(default, name = "read")]
    async fn never(&self);
}

fn main() {}
