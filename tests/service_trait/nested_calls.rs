//! Calls that a method makes of another service: their deadlines and their errors.

use std::time::Duration;

use rpc_runtime::{Broker, CallError, Chain, Context, Executed, Server, service};
use rpc_tests::gate::soon;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum StockError {
    #[error("sold out")]
    SoldOut,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum OrderError {
    #[error("the stock refused")]
    Stock(#[source] StockError),
    #[error("the stock could not be asked")]
    Unavailable,
    #[error("too late: {refused}; {undone}")]
    TooLate { refused: String, undone: String },
}

/// What `?` does with a failed call.
impl From<CallError<StockError>> for OrderError {
    fn from(error: CallError<StockError>) -> Self {
        match error {
            CallError::Service(error) => Self::Stock(error),
            _ => Self::Unavailable,
        }
    }
}

#[service]
trait Stock {
    async fn reserve(&self, item: &str) -> Result<u64, StockError>;
    async fn release(&self, id: u64) -> u64;
}

#[service]
trait Orders {
    async fn order(&self, item: &str) -> Result<u64, OrderError>;
    async fn order_too_late(&self, #[rpc(context)] cx: &Context) -> Result<(), OrderError>;
}

struct Shelf;

impl Stock for Shelf {
    async fn reserve(&self, item: &str) -> Result<u64, StockError> {
        match item {
            "bread" => Ok(7),
            _ => Err(StockError::SoldOut),
        }
    }

    async fn release(&self, id: u64) -> u64 {
        id
    }
}

struct Shop {
    stock: StockClient,
    outcome: tokio::sync::mpsc::UnboundedSender<OrderError>,
}

impl Orders for Shop {
    async fn order(&self, item: &str) -> Result<u64, OrderError> {
        Ok(self.stock.reserve(item).await?)
    }

    async fn order_too_late(&self, cx: &Context) -> Result<(), OrderError> {
        let left = cx.remaining().unwrap();
        // Past the deadline of the caller.
        tokio::time::sleep(left + Duration::from_millis(200)).await;
        let refused = self.stock.release(7).await.unwrap_err();
        assert_eq!(refused.executed(), Executed::No);
        let undone = self.stock.release(7).detached().await;
        let outcome = OrderError::TooLate {
            refused: Chain(&refused).to_string(),
            undone: format!("{undone:?}"),
        };
        self.outcome.send(outcome).unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn a_detached_call_outlives_the_deadline_of_its_handler() {
    let broker = Broker::in_process();
    let (outcome, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    let stock = StockClient::new(&broker);
    let _server = Server::new(&broker)
        .serve(StockServer::new(Shelf))
        .serve(OrdersServer::new(Shop { stock, outcome }))
        .start()
        .await
        .unwrap();
    let orders = OrdersClient::new(&broker);

    assert_eq!(orders.order("bread").await.unwrap(), 7);
    match orders.order("tea").await.unwrap_err() {
        CallError::Service(error) => assert_eq!(error, OrderError::Stock(StockError::SoldOut)),
        other => panic!("{other:?}"),
    }

    let late = orders.order_too_late().timeout(Duration::from_secs(3)).await;
    assert!(matches!(late, Err(CallError::TimedOut { .. })));
    match soon("the handler ends", outcomes.recv()).await.unwrap() {
        OrderError::TooLate { refused, undone } => {
            assert!(refused.starts_with("no reply within"), "{refused}");
            assert_eq!(undone, "Ok(7)");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_error_of_a_nested_call_becomes_ones_own() {
    let error = CallError::Service(StockError::SoldOut).map_service(OrderError::Stock);
    assert!(matches!(
        error,
        CallError::Service(OrderError::Stock(StockError::SoldOut))
    ));
    let error = CallError::<StockError>::no_server("q").map_service(OrderError::Stock);
    assert!(matches!(error, CallError::NoServer { queue, .. } if queue == "q"));
}

#[tokio::test]
async fn an_error_may_be_shown_across_an_await_in_a_spawned_task() {
    async fn note(text: String) -> String {
        tokio::task::yield_now().await;
        text
    }

    let noted = tokio::spawn(async {
        let error = CallError::<StockError>::too_many_calls(7);
        note(Chain(&error).to_string()).await
    });
    assert!(noted.await.unwrap().contains('7'));
}
