//! A broker for tests: RabbitMQ, or the in-process broker. Both keep the same promises.

use rpc_runtime::{Broker, BrokerBuilder, InProcessBroker};

use crate::rabbit;

/// One of the two brokers. Each handle is a client of its own.
#[derive(Debug, Clone)]
pub enum World {
    /// The in-process broker.
    InProcess(InProcessBroker),
    /// The RabbitMQ that the tests of this process share: see [`rabbit::shared`].
    RabbitMq,
}

impl World {
    /// Creates an in-process broker.
    #[must_use]
    pub fn in_process() -> Self {
        Self::InProcess(InProcessBroker::new())
    }

    /// Returns a new handle with default options.
    ///
    /// # Panics
    ///
    /// Panics if RabbitMQ cannot be reached.
    pub async fn broker(&self) -> Broker {
        self.broker_with(Broker::builder()).await
    }

    /// Returns a new handle with these options.
    ///
    /// # Panics
    ///
    /// Panics if RabbitMQ cannot be reached, or if the options do not fit the in-process broker.
    pub async fn broker_with(&self, options: BrokerBuilder) -> Broker {
        match self {
            Self::InProcess(broker) => options.in_process(broker).expect("the options fit"),
            Self::RabbitMq => options
                .address(rabbit::shared().await)
                .connect()
                .await
                .expect("RabbitMQ is there"),
        }
    }
}

/// Turns each function `async fn(World)` into two tests: one with the in-process broker, one with
/// RabbitMQ.
#[macro_export]
macro_rules! on_both_brokers {
    ($($test:ident,)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::world::World::in_process()).await;
            })*
        }

        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::world::World::RabbitMq).await;
            })*
        }
    };
}
