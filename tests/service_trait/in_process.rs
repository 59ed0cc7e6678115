//! `XClient::in_process`: a call without a broker is like one with it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rpc_runtime::{Call, CallError, Context, Executed, FaultCode, service};
use serde::{Deserialize, Serialize, Serializer};

/// Cannot be written.
#[derive(Debug, Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no words for it"))
    }
}

#[service]
trait Clerk {
    async fn header(&self, #[rpc(context)] cx: &Context, name: &str) -> Option<String>;
    async fn remaining(&self, #[rpc(context)] cx: &Context) -> Option<u64>;
    async fn sleep(&self, millis: u64);
    async fn panic(&self) -> u8;
    async fn unwritable(&self, give: bool) -> Option<Unwritable>;
    async fn take(&self, value: Unwritable);
    #[rpc(oneway)]
    async fn note(&self, panic: bool);
}

#[derive(Debug, Clone, Default)]
struct Staff {
    notes: std::sync::Arc<std::sync::Mutex<Vec<bool>>>,
    /// Another, who has less time.
    colleague: Option<ClerkClient>,
}

impl Clerk for Staff {
    async fn header(&self, cx: &Context, name: &str) -> Option<String> {
        cx.headers().get(name).map(str::to_owned)
    }

    async fn remaining(&self, cx: &Context) -> Option<u64> {
        match &self.colleague {
            Some(colleague) => colleague
                .remaining()
                .timeout(Duration::from_secs(60))
                .await
                .unwrap(),
            None => cx.remaining().map(|time| time.as_secs()),
        }
    }

    async fn sleep(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn panic(&self) -> u8 {
        panic!("on purpose")
    }

    async fn unwritable(&self, give: bool) -> Option<Unwritable> {
        give.then_some(Unwritable)
    }

    async fn take(&self, _: Unwritable) {}

    async fn note(&self, panic: bool) {
        self.notes.lock().unwrap().push(panic);
        assert!(!panic, "on purpose");
    }
}

fn fault<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> FaultCode {
    match outcome {
        Err(CallError::Fault(fault)) => fault.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_context_is_the_callers() {
    let clerk = ClerkClient::in_process(Staff::default());
    let header = clerk.header("tenant").header("tenant", "a").await.unwrap();
    assert_eq!(header.as_deref(), Some("a"));
    let remaining = clerk.remaining().timeout(Duration::from_secs(10)).await.unwrap();
    assert!(matches!(remaining, Some(1..=10)), "{remaining:?}");
}

#[tokio::test]
async fn nested_calls_inherit_the_deadline() {
    let clerk = ClerkClient::in_process(Staff {
        colleague: Some(ClerkClient::in_process(Staff::default())),
        ..Staff::default()
    });
    let remaining = clerk.remaining().timeout(Duration::from_secs(10)).await.unwrap();
    assert!(matches!(remaining, Some(1..=10)), "{remaining:?}");
}

#[tokio::test]
async fn a_deadline_ends_the_call() {
    let clerk = ClerkClient::in_process(Staff::default());
    let begun = Instant::now();
    let late = clerk
        .sleep(60_000)
        .timeout(Duration::from_millis(20))
        .await
        .unwrap_err();
    assert!(
        matches!(
            late,
            CallError::TimedOut {
                executed: Executed::Maybe,
                ..
            }
        ),
        "{late:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_panic_is_a_fault() {
    let clerk = ClerkClient::in_process(Staff::default());
    assert_eq!(fault(clerk.panic().await), FaultCode::Panicked);
}

#[tokio::test]
async fn an_unsendable_call_fails_in_process_as_over_a_broker() {
    let clerk = ClerkClient::in_process(Staff::default());
    assert_eq!(fault(clerk.unwritable(true).await), FaultCode::Unanswerable);
    assert!(clerk.unwritable(false).await.unwrap().is_none());
    assert!(matches!(clerk.take(Unwritable).await, Err(CallError::Encode(_))));
}

#[tokio::test]
async fn a_one_way_call_has_run_when_it_returns_and_tells_nothing() {
    let staff = Staff::default();
    let clerk = ClerkClient::in_process(staff.clone());
    clerk.note(false).await.unwrap();
    clerk.note(true).await.unwrap();
    assert_eq!(*staff.notes.lock().unwrap(), [false, true]);
}

#[tokio::test]
async fn a_ready_call_returns_its_outcome() {
    assert_eq!(Call::<_>::ready(Ok(7)).timeout(Duration::ZERO).await.unwrap(), 7);
    let failed: Call<u8, String> = Call::ready(Err(CallError::no_server("q")));
    assert_eq!(failed.await.unwrap_err().executed(), Executed::No);
}

#[test]
fn calls_are_send_whatever_they_return() {
    fn assert_send<T: Send + Unpin>(_: &T) {}
    fn check(call: &Call<Cell<u8>, std::rc::Rc<u8>>) {
        assert_send(call);
    }
    let _ = check;
}
