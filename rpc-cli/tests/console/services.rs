//! Services like those of a shop, for the page to show.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use rpc_runtime::{Broker, Context, Incoming, RunningServer, Server, service};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{interval, sleep};

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Order {
    /// Larger than what a number of JavaScript can hold.
    pub(crate) number: u64,
    pub(crate) customer: String,
    pub(crate) lines: Vec<Line>,
    pub(crate) state: OrderState,
    pub(crate) express: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Line {
    /// The number of the article.
    pub(crate) article: String,
    pub(crate) count: u32,
    /// In cents.
    pub(crate) price: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) enum OrderState {
    Placed,
    Paid { receipt: String },
    Shipped { parcel: u64 },
}

#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize, JsonSchema)]
pub(crate) enum OrderError {
    /// There is no order with this number.
    #[error("no order {number}")]
    UnknownOrder { number: u64 },
    /// An article is sold out.
    #[error("{article} is sold out")]
    SoldOut { article: String },
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Price {
    pub(crate) article: String,
    pub(crate) cents: u64,
    pub(crate) change: i64,
}

/// Takes orders, and tells what became of them.
#[service(queue = "orders", schema)]
pub(crate) trait Orders {
    /// Returns an order by its number.
    #[rpc(idempotent, timeout = "5s")]
    async fn get(&self, number: u64) -> Result<Order, OrderError>;

    /// Places an order, and returns its number.
    ///
    /// The lines are delivered together. With `express`, they leave today.
    async fn place(
        &self,
        customer: &str,
        lines: Vec<Line>,
        state: OrderState,
        express: Option<bool>,
    ) -> Result<u64, OrderError>;

    /// The prices of an article as they change, until the caller has seen enough.
    fn prices(&self, article: &str) -> impl Stream<Item = Price>;

    /// Adds articles to the stock, and returns how many there were.
    async fn restock(&self, warehouse: &str, articles: Incoming<Line>) -> u64;

    /// Drops cached prices in all workers, and returns how many there were.
    #[rpc(broadcast)]
    async fn clear_cache(&self) -> u32;

    /// Counts orders by day. <b>Takes long.</b>
    #[rpc(idempotent)]
    async fn report(&self, year: u16) -> Result<Vec<u64>, OrderError>;

    /// Returns the trace to which the call belongs.
    #[rpc(idempotent)]
    async fn trace(&self, #[rpc(context)] cx: &Context) -> Option<String>;
}

/// Sends mails to customers.
#[service(queue = "mail", schema)]
pub(crate) trait Mail {
    /// Sends a mail, at least once.
    #[rpc(oneway, idempotent)]
    async fn send(&self, to: &str, subject: &str) -> Result<(), String>;
}

/// The number that the worker gives to orders.
pub(crate) const LARGE: u64 = 9_007_199_254_740_993;

#[derive(Debug, Clone)]
pub(crate) struct Shop {
    /// How many streams of prices run.
    pub(crate) streams: Arc<AtomicUsize>,
    /// How many mails were sent.
    pub(crate) mails: Arc<AtomicUsize>,
    /// Whether mails can be sent.
    pub(crate) has_route: watch::Sender<bool>,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self {
            streams: Arc::default(),
            mails: Arc::default(),
            has_route: watch::Sender::new(false),
        }
    }

    /// Starts a worker.
    pub(crate) async fn start(&self, url: &str, name: &str) -> (Broker, RunningServer) {
        let broker = Broker::connect(url).await.expect("the broker is there");
        let server = Server::new(&broker)
            .worker_name(name)
            .version("2.3.1")
            .serve(OrdersServer::new(self.clone()))
            .serve(MailServer::new(self.clone()))
            .start()
            .await;
        (broker, server.expect("the worker starts"))
    }
}

/// Counts as a stream until it is dropped.
struct Streaming(Arc<AtomicUsize>);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Orders for Shop {
    async fn get(&self, number: u64) -> Result<Order, OrderError> {
        sleep(Duration::from_millis(1 + number % 7)).await;
        if number.is_multiple_of(10) {
            return Err(OrderError::UnknownOrder { number });
        }
        Ok(Order {
            number,
            customer: "Ada Lovelace".to_owned(),
            lines: vec![
                Line {
                    article: "NT-1843".to_owned(),
                    count: 2,
                    price: 1295,
                },
                Line {
                    article: "PC-0007".to_owned(),
                    count: 12,
                    price: 40,
                },
            ],
            state: OrderState::Shipped { parcel: LARGE },
            express: false,
        })
    }

    async fn place(
        &self,
        _customer: &str,
        lines: Vec<Line>,
        _state: OrderState,
        _express: Option<bool>,
    ) -> Result<u64, OrderError> {
        match lines.into_iter().find(|line| line.count > 100) {
            Some(Line { article, .. }) => Err(OrderError::SoldOut { article }),
            None => Ok(LARGE),
        }
    }

    fn prices(&self, article: &str) -> impl Stream<Item = Price> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let streaming = Streaming(Arc::clone(&self.streams));
        let article = article.to_owned();
        let ticks = stream::unfold(interval(Duration::from_millis(40)), async |mut ticks| {
            ticks.tick().await;
            Some(((), ticks))
        });
        ticks.enumerate().map(move |(number, ())| {
            let _ = &streaming;
            let change = [3, -1, 0, 5, -4, 2][number % 6];
            Price {
                article: article.clone(),
                cents: 1295 + (number as u64 * 7) % 31,
                change,
            }
        })
    }

    async fn restock(&self, _warehouse: &str, mut articles: Incoming<Line>) -> u64 {
        let mut count = 0;
        while let Some(Ok(line)) = articles.next().await {
            count += u64::from(line.count);
        }
        count
    }

    async fn clear_cache(&self) -> u32 {
        42
    }

    async fn report(&self, _year: u16) -> Result<Vec<u64>, OrderError> {
        std::future::pending().await
    }

    async fn trace(&self, cx: &Context) -> Option<String> {
        cx.headers().get("traceparent").map(str::to_owned)
    }
}

impl Mail for Shop {
    async fn send(&self, to: &str, _subject: &str) -> Result<(), String> {
        if !*self.has_route.borrow() {
            return Err(format!("no route to {to}"));
        }
        self.mails.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
