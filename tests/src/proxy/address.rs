//! The host and port in an AMQP URL.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};

/// An AMQP URL in parts. Joined again, they are the same text.
#[derive(Debug)]
pub(super) struct Address {
    /// `amqp`, or `amqps`.
    scheme: String,
    /// `user:password@`, or empty.
    credentials: String,
    /// The host, and `:` and the port if the URL has one.
    host: String,
    /// The virtual host and the query, with `/` and `?`.
    rest: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, after) = url.split_once("://").context("the broker's URL has no scheme")?;
        ensure!(["amqp", "amqps"].contains(&scheme), "{scheme} is not AMQP");
        let (authority, rest) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
        let (credentials, host) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        ensure!(!host.is_empty(), "the broker's URL has no host");
        Ok(Self {
            scheme: scheme.into(),
            credentials: credentials.into(),
            host: host.into(),
            rest: rest.into(),
        })
    }

    /// Returns the address to connect to. The default port is that of the scheme.
    pub(super) fn host_and_port(&self) -> String {
        // The colons of an IPv6 address are in brackets.
        let has_port = self.host.rfind(':') > self.host.rfind(']');
        match self.scheme.as_str() {
            _ if has_port => self.host.clone(),
            "amqps" => format!("{}:5671", self.host),
            _ => format!("{}:5672", self.host),
        }
    }

    /// Returns the URL with another host and port.
    pub(super) fn with_host_and_port(&self, address: SocketAddr) -> String {
        format!("{}://{}{address}{}", self.scheme, self.credentials, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_keeps_all_but_host_and_port() {
        let proxy = "127.0.0.1:1234".parse().unwrap();
        for (url, broker, through_proxy) in [
            ("amqp://broker", "broker:5672", "amqp://127.0.0.1:1234"),
            ("amqps://broker/", "broker:5671", "amqps://127.0.0.1:1234/"),
            ("amqp://[::1]/%2f", "[::1]:5672", "amqp://127.0.0.1:1234/%2f"),
            ("amqp://[::1]:7", "[::1]:7", "amqp://127.0.0.1:1234"),
            (
                "amqp://me:p%40ss@broker:7/%2fvhost?heartbeat=5",
                "broker:7",
                "amqp://me:p%40ss@127.0.0.1:1234/%2fvhost?heartbeat=5",
            ),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.host_and_port(), broker);
            assert_eq!(address.with_host_and_port(proxy), through_proxy);
        }
        for url in ["broker:5672", "http://broker", "amqp:///vhost"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
