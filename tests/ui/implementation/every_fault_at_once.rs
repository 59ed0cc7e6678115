//! One compile shows all that is wrong, each at its own token.
use rpc_runtime::service;

#[service(queu = "a")]
trait Everything<'a> {
    const N: usize;
    fn f(self, _: u8, a: &mut u8) -> &str;
    #[rpc(timeout = "2", name = "f", oneway)]
    async fn g(&self) -> u8;
}

fn main() {}
