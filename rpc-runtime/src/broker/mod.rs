//! The handle on a broker: its options, the environment, and everything that a user opens through
//! it.

mod builder;
mod connect;
mod environment;
mod from_env;
mod handle;
mod limits;
mod opens;

pub use builder::BrokerBuilder;
pub use handle::Broker;
