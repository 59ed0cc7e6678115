//! An error in a body is reported at its own place, in a trait that is refused too.
use rpc_runtime::service;

#[service]
trait Clock {
    async fn now(&self) -> u64 {
        let now: u64 = "now";
        now
    }
    async fn later(&self) -> u64 {
        "later"
    }
    async fn never(&self) -> u64 {
        std::future::pending::<()>().await;
    }
    async fn is_not_send(&self) -> u64 {
        let one = std::rc::Rc::new(1);
        std::future::ready(()).await;
        *one
    }
}

#[service(queu = "clock")]
trait Refused {
    async fn now(&self) -> u64 {
        "later"
    }
}

fn main() {}
