//! A broker's address.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;

use lapin::uri::{AMQPQueryString, AMQPScheme, AMQPUri, SASLMechanism};

use super::tls::TlsClient;
use crate::error::BrokerError;

/// The period of heartbeats, unless the address (`?heartbeat=`) or the builder sets another one. A
/// connection whose peer is silent for twice as long is lost. RabbitMQ
/// [advises](https://www.rabbitmq.com/docs/heartbeats) 5 to 20 seconds. Its own default is 60.
const HEARTBEAT_SECONDS: u16 = 10;

/// The maximum size of a frame in bytes to ask for, unless the address sets another one
/// (`?frame_max=`). The broker may negotiate a smaller one. This is RabbitMQ's own default.
pub(super) const DEFAULT_MAX_FRAME: u32 = 128 * 1024;

/// The valid values of `?frame_max=`. The minimum is RabbitMQ 4.1's. The maximum bounds lapin's two
/// buffers of 32 frames each.
const MAX_FRAME_RANGE: RangeInclusive<u32> = 8 * 1024..=1024 * 1024;

/// The parameters that the query string of an address may have.
const PARAMETERS: [&str; 4] = ["auth_mechanism", "channel_max", "frame_max", "heartbeat"];

/// Where a broker is and how to log in. `Debug` and `Display` show only host and port.
#[derive(Clone)]
pub(crate) struct Address {
    uri: AMQPUri,
    /// Whether the address names the user. Otherwise the user is `guest`, or the one that the
    /// client's certificate names.
    names_user: bool,
    tls: Option<TlsClient>,
}

impl Address {
    /// Parses `amqp://user:password@host:port/vhost`, as in RabbitMQ's [URI
    /// specification](https://www.rabbitmq.com/docs/uri-spec). Also refuses some valid addresses,
    /// such as one with an empty virtual host, or with parameters other than [`PARAMETERS`].
    pub(crate) fn parse(url: &str) -> Result<Self, BrokerError> {
        let invalid = |reason| Err(BrokerError::InvalidAddress { reason });
        // Files that hold secrets often end in a line break.
        let url = url.trim();
        let rest = after_scheme(url)?;
        // lapin's parser could take a part of an ambiguous password for the host or the port, and
        // messages show those.
        if !is_unambiguous(rest) {
            return invalid(NOT_ENCODED);
        }
        // The parser's own message may contain parts of the address, and so the password.
        let Ok(mut uri) = url.parse::<AMQPUri>() else {
            return invalid(
                "it is not of the form amqp://user:password@host:port/vhost, or its query string is invalid",
            );
        };
        if uri.vhost.is_empty() {
            return invalid(
                "its virtual host is empty: omit the final slash, or write /%2f for the default one",
            );
        }
        check_query(rest, &mut uri.query)?;

        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user_info, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        // lapin would log in as `guest` with that password.
        if user.is_empty() && !password.is_empty() {
            return invalid("it has a password and no user: write amqp://user:password@host");
        }
        // The parser replaces any IPv6 address with localhost.
        if let Some((host, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            let Ok(host) = host.parse::<Ipv6Addr>() else {
                return invalid("the host in brackets is not an IPv6 address");
            };
            uri.authority.host = host.to_string();
        }
        let address = Self {
            names_user: !user.is_empty(),
            tls: None,
            uri,
        };
        if address.uses_external_auth() && !address.is_tls() {
            return invalid("auth_mechanism=external logs in by a client certificate, and needs amqps://");
        }
        Ok(address)
    }

    /// Sets the heartbeat unless the address has one. `None` means the default of 10 seconds.
    pub(crate) fn with_default_heartbeat(mut self, seconds: Option<u16>) -> Self {
        let heartbeat = &mut self.uri.query.heartbeat;
        heartbeat.get_or_insert(seconds.unwrap_or(HEARTBEAT_SECONDS));
        self
    }

    /// Sets the TLS client to connect with.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(mut self, client: TlsClient) -> Self {
        self.tls = Some(client);
        self
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// Whether the broker takes the user from the client's certificate.
    pub(crate) fn uses_external_auth(&self) -> bool {
        self.uri.query.auth_mechanism == Some(SASLMechanism::External)
    }

    /// The user who logs in. With [external](Self::uses_external_auth) authentication, the one that
    /// the address names, or `None`: only the broker knows the certificate's user.
    pub(crate) fn user(&self) -> Option<&str> {
        let is_known = self.names_user || !self.uses_external_auth();
        is_known.then_some(self.uri.authority.userinfo.username.as_str())
    }

    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        (&self.uri.authority.host, self.uri.authority.port)
    }

    pub(crate) fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }

    /// The TLS client to connect with. `None` means plain TCP.
    ///
    /// # Errors
    ///
    /// Fails if the address needs TLS and no client was set.
    pub(crate) fn tls(&self) -> Result<Option<&TlsClient>, BrokerError> {
        match &self.tls {
            Some(client) if self.is_tls() => Ok(Some(client)),
            None if self.is_tls() => Err(BrokerError::TlsUnsupported),
            _ => Ok(None),
        }
    }
}

/// Returns what follows `amqp://` or `amqps://`. Fails for any other scheme, and for `amqps://`
/// without the cargo feature `tls`.
fn after_scheme(url: &str) -> Result<&str, BrokerError> {
    const UNKNOWN: BrokerError = BrokerError::InvalidAddress {
        reason: "it does not begin with amqp:// or amqps://",
    };
    let (scheme, rest) = url.split_once("://").ok_or(UNKNOWN)?;
    match scheme.to_ascii_lowercase().as_str() {
        "amqps" if cfg!(not(feature = "tls")) => Err(BrokerError::TlsUnsupported),
        "amqp" | "amqps" => Ok(rest),
        _ => Err(UNKNOWN),
    }
}

/// Checks the query string of `rest`, an address without its scheme, and sets the default
/// `frame_max`. Refuses all parameters but [`PARAMETERS`], because lapin ignores unknown ones.
fn check_query(rest: &str, parsed: &mut AMQPQueryString) -> Result<(), BrokerError> {
    let invalid = |reason| Err(BrokerError::InvalidAddress { reason });
    // For 0, lapin uses the broker's own heartbeat, which is 60 seconds by default.
    if parsed.heartbeat == Some(0) {
        return invalid(
            "heartbeat=0 would not switch heartbeats off, because the broker's own period would apply: set 1 to 65535 seconds, or omit it for the default",
        );
    }
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let mut names = query.split('&').filter(|pair| !pair.is_empty()).map(name_in);
    if names.any(|name| !PARAMETERS.contains(&name)) {
        return invalid(
            "only auth_mechanism, channel_max, frame_max and heartbeat may be in its query string; set everything else on the builder",
        );
    }
    // Without a value, lapin uses the broker's maximum, which may be unlimited.
    if !MAX_FRAME_RANGE.contains(parsed.frame_max.get_or_insert(DEFAULT_MAX_FRAME)) {
        return invalid("its frame_max is not between 8192 and 1048576 bytes");
    }
    Ok(())
}

/// The error for an address that is not [unambiguous](is_unambiguous).
const NOT_ENCODED: &str = "a user, password or virtual host in it holds characters that must be percent-encoded, such as %40 for @, %2F for /, %23 for #, %3F for ? and %25 for %";

/// Whether an address without its scheme can be split in only one way: user and password are valid,
/// and no delimiter can belong to them.
fn is_unambiguous(rest: &str) -> bool {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user_info, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    // With `@` or `#`, the path may begin within a password. A `%` in the host may encode an `@`.
    is_user_info(user_info) && !path.contains(['@', '#']) && !host.contains('%')
}

/// Whether this is a valid user and password: `userinfo` of RFC 3986, and UTF-8 once decoded.
fn is_user_info(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&byte);
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return false,
            },
            byte if is_plain(byte) => byte,
            _ => return false,
        });
    }
    str::from_utf8(&decoded).is_ok()
}

/// The value of a hexadecimal digit. `None` for any other byte.
fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// The part of a parameter before its `=`, or all of it.
fn name_in(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = self.host_and_port();
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(url: &str) -> &'static str {
        match Address::parse(url) {
            Err(BrokerError::InvalidAddress { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_password_without_a_user_is_refused() {
        for url in ["amqp://:s3cret@broker", "amqp://::QQ=0@broker/prod"] {
            assert!(reason(url).starts_with("it has a password and no user"), "{url}");
        }
        assert_eq!(Address::parse("amqp://broker").unwrap().user(), Some("guest"));
    }

    #[test]
    fn credentials_are_never_shown() {
        let address = Address::parse("amqp://alice:s3cret@broker:5673/prod").unwrap();
        assert_eq!(format!("{address} {address:?}"), "broker:5673 broker:5673");
        assert_eq!(address.user(), Some("alice"));
        let error = Address::parse("amqp://alice:s3cret@broker:notaport/").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn tls_is_refused_and_not_ignored() {
        for url in ["amqps://broker", "AMQPS://broker"] {
            let error = Address::parse(url).unwrap_err();
            assert!(matches!(error, BrokerError::TlsUnsupported), "{error:?}");
            assert!(
                error.to_string().contains("enable the feature \"tls\""),
                "{error}"
            );
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn an_amqps_address_never_connects_without_tls() {
        for url in ["amqps://broker", "AMQPS://broker"] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.host_and_port(), ("broker", 5671));
            // Without a TLS client there is an error, not a plain connection.
            assert!(matches!(address.tls(), Err(BrokerError::TlsUnsupported)));
            let client = crate::Tls::new().client().unwrap();
            assert!(address.with_tls(client).tls().unwrap().is_some());
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn the_user_of_a_certificate_is_unknown_unless_the_address_names_one() {
        let user = |url| Address::parse(url).unwrap().user().map(str::to_owned);
        assert_eq!(user("amqps://broker"), Some("guest".to_owned()));
        assert_eq!(user("amqps://broker?auth_mechanism=external"), None);
        let named = "amqps://alice@broker/%2f?heartbeat=5&auth_mechanism=EXTERNAL";
        assert_eq!(user(named), Some("alice".to_owned()));
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for url in [
            "http://broker",
            "broker:5672",
            "",
            "amqp://broker/",
            "amqp://[broker]",
        ] {
            assert!(
                matches!(Address::parse(url), Err(BrokerError::InvalidAddress { .. })),
                "{url}"
            );
        }
        assert!(reason("amqp://broker?auth_mechanism=external").contains("amqps://"));
    }

    #[test]
    fn unknown_parameters_are_refused() {
        for url in [
            "amqp://broker?heartbaet=5",
            "amqp://broker/%2f?heartbeat=5&verify=verify_none",
        ] {
            assert!(reason(url).contains("may be in its query string"), "{url}");
        }
        assert!(reason("amqp://broker?heartbeat=often").contains("query string is invalid"));
        assert!(reason("amqp://broker?heartbeat=0").contains("1 to 65535 seconds"));
        let heartbeat = |url, or| {
            Address::parse(url)
                .unwrap()
                .with_default_heartbeat(or)
                .uri()
                .query
                .heartbeat
        };
        assert_eq!(heartbeat("amqp://broker", None), Some(10));
        assert_eq!(heartbeat("amqp://broker", Some(20)), Some(20));
        assert_eq!(heartbeat("amqp://broker?heartbeat=5", Some(20)), Some(5));
    }

    #[test]
    fn frame_max_must_be_within_its_range() {
        let max = |url: &str| Address::parse(url).unwrap().uri().query.frame_max;
        assert_eq!(max("amqp://broker"), Some(131_072));
        assert_eq!(max("amqp://broker?frame_max=8192"), Some(8192));
        assert_eq!(max("amqp://broker?frame_max=1048576"), Some(1_048_576));
        for size in ["0", "4096", "8191", "1048577", "4294967295"] {
            let url = format!("amqp://broker?frame_max={size}");
            assert!(reason(&url).contains("between 8192 and 1048576"), "{url}");
        }
    }

    #[test]
    fn a_password_that_is_not_encoded_is_refused_and_no_part_of_it_is_shown() {
        for url in [
            "amqp://shop:12#x@rabbit/prod",
            "amqp://shop:12/34@rabbit/prod",
            "amqp://shop:12?34@rabbit/prod",
            "amqp://shop:12?heartbeat=34@rabbit/prod",
            "amqp://shop:12@34@rabbit/prod",
            "amqp://shop:12[34]@rabbit/prod",
            "amqp://shop:12 34@rabbit/prod",
            "amqp://shop:12\n34@rabbit/prod",
            "amqp://shop:12\\34@rabbit/prod",
            "amqp://shop:größe@rabbit/prod",
            "amqp://shop:12%@rabbit/prod",
            "amqp://shop:12%3@rabbit/prod",
            "amqp://shop:12%zz@rabbit/prod",
            "amqp://shop:12%ff@rabbit/prod",
            "amqp://a/b:12@rabbit/prod",
            "amqp://12#rabbit",
            "amqp://rabbit/prod#12",
            "amqp://shop%3A12%40rabbit/prod",
        ] {
            assert!(reason(url).contains("percent-encoded"), "{url}");
        }
    }

    proptest! {
        /// Any user and password are either parsed as they are meant, or refused.
        #[test]
        fn no_part_of_a_user_or_password_is_taken_for_something_else(
            user in "[a-zA-Z0-9/#?@:\\[\\] é&=+,-]{1,12}",
            password in "[Q-Z0-9/#?@:\\[\\] é&=+,%-]{4,16}",
        ) {
            let url = format!("amqp://{user}:{password}@rabbit/prod");
            match Address::parse(&url) {
                Ok(address) => {
                    prop_assert_eq!(address.host_and_port(), ("rabbit", 5672));
                    prop_assert_eq!(&address.uri.vhost, "prod");
                    let parsed = &address.uri.authority.userinfo;
                    let decoded = percent_decoded(&format!("{user}:{password}"));
                    prop_assert_eq!(format!("{}:{}", parsed.username, parsed.password), decoded);
                }
                Err(error) => {
                    // The constant part of the message is the same for all passwords.
                    let shown = format!("{error} {error:?}").replace(NOT_ENCODED, "");
                    let characters: Vec<_> = password.chars().collect();
                    for piece in characters.windows(4).map(String::from_iter) {
                        prop_assert!(!shown.contains(&piece), "{piece:?} is in {shown}");
                    }
                }
            }
        }

        #[test]
        fn every_user_and_password_can_be_encoded(user in "\\PC{1,12}", password in "\\PC{0,12}", vhost in "[a-z/@#é]{1,12}") {
            let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let url = format!("amqp://{}:{}@rabbit/{}", encode(&user), encode(&password), encode(&vhost));
            let address = Address::parse(&url).unwrap();
            let parsed = &address.uri.authority.userinfo;
            prop_assert_eq!(&parsed.username, &user);
            prop_assert_eq!(&address.uri.vhost, &vhost);
            prop_assert_eq!(address.to_string(), "rabbit:5672");
        }
    }

    fn percent_decoded(text: &str) -> String {
        let mut parts = text.split('%');
        let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            decoded.push(u8::from_str_radix(&part[..2], 16).unwrap());
            decoded.extend(&part.as_bytes()[2..]);
        }
        String::from_utf8(decoded).unwrap()
    }

    #[test]
    fn an_ipv6_address_is_not_localhost() {
        let address = Address::parse("amqp://alice:s3cret@[2001:db8::7]:5673/prod").unwrap();
        assert_eq!(address.host_and_port(), ("2001:db8::7", 5673));
        assert_eq!(address.to_string(), "[2001:db8::7]:5673");
        assert_eq!(
            Address::parse("amqp://[::1]").unwrap().host_and_port(),
            ("::1", 5672)
        );
    }
}
