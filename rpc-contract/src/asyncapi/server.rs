//! The broker of a document.

use std::error::Error;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::parts::reference;
use crate::references::percent_decoded;

/// The broker of a service, for documents: where it is, and the virtual host, without credentials.
///
/// ```
/// use rpc_contract::asyncapi::Server;
///
/// assert!("amqps://broker.example.com:5671/sales".parse::<Server>().is_ok());
/// let refused = "amqp://alice:secret@broker".parse::<Server>().unwrap_err();
/// assert!(refused.to_string().contains("remove the user and the password"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    is_tls: bool,
    /// The host, and the port if there is one.
    host: String,
    /// A slash and the percent-encoded virtual host, or nothing, which means the default one.
    path: String,
}

/// An address is not that of a [`Server`].
///
/// The message says what is wrong, and shows nothing of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidServer {
    reason: &'static str,
}

impl fmt::Display for InvalidServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid address of a server: {}", self.reason)
    }
}

impl Error for InvalidServer {}

/// Parses `amqp://host:port/vhost` or `amqps://host:port/vhost`. The port and the virtual host may
/// be missing.
impl FromStr for Server {
    type Err = InvalidServer;

    fn from_str(url: &str) -> Result<Self, InvalidServer> {
        let invalid = |reason| Err(InvalidServer { reason });
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let is_tls = scheme.eq_ignore_ascii_case("amqps");
        if !is_tls && !scheme.eq_ignore_ascii_case("amqp") {
            return invalid("it does not begin with amqp:// or amqps://");
        }
        if rest.contains('@') {
            return invalid("a document has no credentials, remove the user and the password");
        }
        if rest.contains(['?', '#']) {
            return invalid("remove what follows the virtual host");
        }
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !is_host_and_port(host) {
            return invalid("after the scheme must come one host, and maybe a colon and a port");
        }
        match path.strip_prefix('/') {
            Some("") => {
                invalid("its virtual host is empty: omit the final slash, or write /%2f for the default one")
            }
            Some(vhost) if !vhost.bytes().all(is_path_byte) => {
                invalid("its virtual host holds characters that must be percent-encoded, such as %2f for /")
            }
            _ => Ok(Self {
                is_tls,
                host: host.to_owned(),
                path: path.to_owned(),
            }),
        }
    }
}

/// Whether a text is a host, and maybe a port. An IPv6 address is in brackets.
fn is_host_and_port(text: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let (is_host, after) = if let Some(ipv6) = text.strip_prefix('[') {
        let Some((host, after)) = ipv6.split_once(']') else {
            return false;
        };
        (host.parse::<Ipv6Addr>().is_ok(), after)
    } else {
        let (host, after) = text.split_at(text.find(':').unwrap_or(text.len()));
        (!host.is_empty() && host.bytes().all(is_name_byte), after)
    };
    is_host && (after.is_empty() || after.strip_prefix(':').is_some_and(is_port))
}

fn is_port(text: &str) -> bool {
    // `parse` would accept `+5672`.
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse().is_ok_and(|port: u16| port > 0)
}

/// Whether a path may have this byte within a segment: `pchar` of RFC 3986, but for `@`. Does not
/// check what follows a `%`.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:%".contains(&byte)
}

impl Server {
    /// Returns the name of the virtual host.
    pub(super) fn vhost(&self) -> String {
        match self.path.strip_prefix('/') {
            Some(vhost) => percent_decoded(vhost),
            None => "/".to_owned(),
        }
    }

    /// Returns the document's object for the server.
    pub(super) fn object(&self) -> Value {
        let schemes = self.schemes();
        let schemes = schemes
            .keys()
            .map(|name| reference(&["components", "securitySchemes", name]));
        let mut server = json!({
            "host": self.host,
            "protocol": if self.is_tls { "amqps" } else { "amqp" },
            "protocolVersion": "0.9.1",
            "security": schemes.collect::<Vec<_>>(),
        });
        if !self.path.is_empty() {
            server["pathname"] = json!(self.path);
        }
        server
    }

    /// Returns the document's security schemes, by name: the ways to log in.
    pub(super) fn schemes(&self) -> Map<String, Value> {
        let mut schemes = Map::new();
        let password = json!({"type": "userPassword", "description": "A user of RabbitMQ."});
        schemes.insert("password".to_owned(), password);
        if self.is_tls {
            let certificate = json!({
                "type": "X509",
                "description": "A client certificate that names the user, if the broker allows `EXTERNAL`.",
            });
            schemes.insert("certificate".to_owned(), certificate);
        }
        schemes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Server, String> {
        url.parse().map_err(|error: InvalidServer| error.to_string())
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (url, object, vhost) in [
            (
                "amqp://broker",
                json!({"host": "broker", "protocol": "amqp"}),
                "/",
            ),
            (
                "AMQPS://broker.example.com:5671/%2f",
                json!({"host": "broker.example.com:5671", "protocol": "amqps", "pathname": "/%2f"}),
                "/",
            ),
            (
                "amqp://[::1]:5672/my%20sales",
                json!({"host": "[::1]:5672", "protocol": "amqp", "pathname": "/my%20sales"}),
                "my sales",
            ),
            ("amqp://[::1]", json!({"host": "[::1]", "protocol": "amqp"}), "/"),
        ] {
            let server = parse(url).unwrap();
            let mut found = server.object();
            let is_tls = object["protocol"] == "amqps";
            let found = found.as_object_mut().unwrap();
            let logins = found.remove("security").unwrap();
            assert_eq!(
                logins.as_array().unwrap().len(),
                if is_tls { 2 } else { 1 },
                "{url}"
            );
            found.remove("protocolVersion");
            assert_eq!(json!(found), object, "{url}");
            assert_eq!(server.vhost(), vhost, "{url}");
        }
    }

    #[test]
    fn other_addresses_are_refused_and_not_shown() {
        for (url, reason) in [
            ("", "does not begin"),
            ("broker:5672", "does not begin"),
            ("http://broker", "does not begin"),
            ("amqp://alice:s3cret@broker/sales", "remove the user"),
            ("amqp://alice@broker", "remove the user"),
            ("amqp://broker/sales?heartbeat=5", "remove what follows"),
            ("amqp://broker#s3cret", "remove what follows"),
            ("amqp://", "one host"),
            ("amqp://a,b", "one host"),
            ("amqp://a b", "one host"),
            ("amqp://broker:0", "one host"),
            ("amqp://broker:65536", "one host"),
            ("amqp://broker:", "one host"),
            ("amqp://broker:+5", "one host"),
            ("amqp://[::1]5672", "one host"),
            ("amqp://[::1", "one host"),
            ("amqp://[broker]", "one host"),
            ("amqp://broker/", "omit the final slash"),
            ("amqp://broker/a/b", "percent-encoded"),
            ("amqp://broker/ä", "percent-encoded"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(
                error.contains(reason) && !error.contains("s3cret"),
                "{url}: {error}"
            );
        }
    }
}
