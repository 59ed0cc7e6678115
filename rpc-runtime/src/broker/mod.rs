//! The handle on a broker: its options, also from environment variables, and the clients and
//! servers that are made from it.

mod builder;
mod connect;
mod constructors;
mod environment;
mod from_env;
mod handle;
mod limits;

pub use builder::BrokerBuilder;
pub use handle::Broker;
