//! A broker's address.

use std::fmt;

use lapin::uri::{AMQPScheme, AMQPUri};

use crate::error::BrokerError;

/// How often the peers of a connection let each other know that they are there, unless the address says otherwise
/// (`?heartbeat=`): a connection whose peer is silent for twice as long is lost. RabbitMQ
/// [advises](https://www.rabbitmq.com/docs/heartbeats) 5 to 20 seconds; its own default is 60.
const HEARTBEAT_SECONDS: u16 = 10;

/// Where a broker is and how to log in. `Debug` and `Display` show host and port alone.
#[derive(Clone, PartialEq)]
pub(crate) struct Address(AMQPUri);

impl Address {
    /// Reads `amqp://user:password@host:port/vhost`, as RabbitMQ's
    /// [URI specification](https://www.rabbitmq.com/docs/uri-spec) has it.
    pub(crate) fn parse(url: &str) -> Result<Self, BrokerError> {
        match url.split_once("://") {
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("amqps") => {
                return Err(BrokerError::TlsUnsupported);
            }
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("amqp") => {}
            _ => {
                return Err(BrokerError::InvalidAddress {
                    reason: "it does not begin with amqp://",
                });
            }
        }
        // The parser's own message may repeat parts of the address, and with them the password.
        let mut uri: AMQPUri = url.parse().map_err(|_| BrokerError::InvalidAddress {
            reason: "it is not of the form amqp://user:password@host:port/vhost",
        })?;
        match uri.scheme {
            AMQPScheme::AMQP if uri.vhost.is_empty() => Err(BrokerError::InvalidAddress {
                reason: "its virtual host is empty: leave the last slash away, or write /%2f for the default one",
            }),
            AMQPScheme::AMQP => {
                uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
                Ok(Self(uri))
            }
            AMQPScheme::AMQPS => Err(BrokerError::TlsUnsupported),
        }
    }

    /// The user to log in as.
    pub(crate) fn user(&self) -> &str {
        &self.0.authority.userinfo.username
    }

    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.0.authority.host, self.0.authority.port)
    }

    pub(super) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.authority.host, self.0.authority.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        let address = Address::parse("amqp://alice:s3cret@broker:5673/prod").unwrap();
        assert_eq!(format!("{address} {address:?}"), "broker:5673 broker:5673");
        assert_eq!(address.user(), "alice");
        let error = Address::parse("amqp://alice:s3cret@broker:notaport/").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn tls_is_refused_and_not_ignored() {
        assert!(matches!(
            Address::parse("amqps://broker"),
            Err(BrokerError::TlsUnsupported)
        ));
        assert!(matches!(
            Address::parse("AMQPS://broker"),
            Err(BrokerError::TlsUnsupported)
        ));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in ["http://broker", "broker:5672", "", "amqp://broker/"] {
            assert!(
                matches!(Address::parse(url), Err(BrokerError::InvalidAddress { .. })),
                "{url}"
            );
        }
    }
}
