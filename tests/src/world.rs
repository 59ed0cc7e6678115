//! A broker to test against: RabbitMQ, or the one in the process. What is promised of one is promised of both.

use rpc_runtime::{Broker, BrokerBuilder, InProcessBroker};

use crate::rabbit;

/// One of the two brokers; each handle made from it is a client of its own.
#[derive(Debug, Clone)]
pub enum World {
    /// The broker in this process.
    InProcess(InProcessBroker),
    /// The RabbitMQ that the tests of this process share: see [`rabbit::shared`].
    RabbitMq,
}

impl World {
    /// A broker of its own in this process.
    #[must_use]
    pub fn in_process() -> Self {
        Self::InProcess(InProcessBroker::new())
    }

    /// A handle with default options.
    ///
    /// # Panics
    ///
    /// Where RabbitMQ cannot be reached.
    pub async fn broker(&self) -> Broker {
        self.broker_with(Broker::builder()).await
    }

    /// A handle with these options.
    ///
    /// # Panics
    ///
    /// Where RabbitMQ cannot be reached.
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

/// Makes two tests of each function `async fn(World)`: one on the broker in the process, one on RabbitMQ.
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
