//! Who may use the console. Does no I/O.
//!
//! A page of another site can send requests to this server from the user's browser. They lack the
//! token, which the browser does not add by itself. Their `Origin`, if they have one, is refused
//! too, and so is their `Host` if that site resolves its name to this machine.

use std::hint::black_box;
use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Which requests are accepted.
#[derive(Debug)]
pub(super) struct Access {
    /// The token of the address that the program prints.
    pub(super) token: String,
    /// The names of this machine that browsers may use, beside `localhost` and IP addresses.
    pub(super) names: Vec<String>,
    /// Whether other machines may connect.
    pub(super) is_remote: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("this console is not served under this host name: open the address that it printed")]
    Host,
    #[error("the request comes from another site")]
    Origin,
    #[error("the request has no token: open the address that the console printed")]
    NoToken,
    #[error("the token is wrong: open the address that the console printed when it started")]
    WrongToken,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Host | Self::Origin => StatusCode::FORBIDDEN,
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
        }
    }
}

impl Access {
    /// Checks that a request names this console in its only `Host`, and that its `Origin`, if it
    /// has one, is that host.
    pub(super) fn check_site(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Refusal::Host);
        };
        let host = host.to_str().map_err(|_| Refusal::Host)?;
        if !self.is_own_host(host) {
            return Err(Refusal::Host);
        }
        let origins = headers.get_all(header::ORIGIN).iter();
        let mut origins = origins.map(|origin| origin.to_str().unwrap_or_default());
        // Browsers leave it out of some requests, and other clients send none.
        if origins.all(|origin| is_origin_of(origin, host)) {
            Ok(())
        } else {
            Err(Refusal::Origin)
        }
    }

    /// Checks that a request to the API has the token, and that `Sec-Fetch-Site`, if the browser
    /// sends it, does not name another site.
    pub(super) fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let site = headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Refusal::Origin);
        }
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            return Err(Refusal::NoToken);
        };
        let Some(given) = given.as_bytes().strip_prefix(b"Bearer ") else {
            return Err(Refusal::NoToken);
        };
        if is_same(given, self.token.as_bytes()) {
            Ok(())
        } else {
            Err(Refusal::WrongToken)
        }
    }

    /// Whether a `Host` names this console. The port is not compared, because a tunnel may have
    /// another one.
    fn is_own_host(&self, host: &str) -> bool {
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']');
        match address.parse::<IpAddr>() {
            // Only a name can be resolved to this machine by another site, not an address.
            Ok(address) => self.is_remote || address.to_canonical().is_loopback(),
            Err(_) => {
                let mut names = self.names.iter().map(String::as_str);
                name.eq_ignore_ascii_case("localhost") || names.any(|known| name.eq_ignore_ascii_case(known))
            }
        }
    }
}

/// Returns the host without the port, if it has one.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether an `Origin` is that of a page from this `Host`, maybe behind a proxy with TLS. Also
/// compares the port.
fn is_origin_of(origin: &str, host: &str) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Whether two texts are the same. Takes the same time for all texts of one length, so that nobody
/// learns from it how much of a guess is right.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    if given.len() != expected.len() {
        return false;
    }
    let pairs = given.iter().zip(expected);
    let difference = pairs.fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(names: &[&str], is_remote: bool) -> Access {
        Access {
            token: "secret".to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            is_remote,
        }
    }

    fn headers(entries: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_own_hosts_are_accepted() {
        let local = access(&["box.example"], false);
        let check = |access: &Access, host: &str| access.check_site(&headers(&[(header::HOST, host)]));
        for host in [
            "127.0.0.1:8080",
            "127.0.0.1",
            "127.8.9.1:1",
            "localhost:9",
            "LocalHost",
            "[::1]:80",
            "[::1]",
            "[::ffff:127.0.0.1]:80",
            "box.example:80",
        ] {
            assert_eq!(check(&local, host), Ok(()), "{host}");
        }
        let foreign = [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "127.0.0.1@evil.example",
            "0x7f.1",
            "",
            ":80",
        ];
        let remote = access(&[], true);
        for host in foreign {
            assert_eq!(check(&local, host), Err(Refusal::Host), "{host}");
            assert_eq!(check(&remote, host), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check(&local, "192.168.0.7:80"), Err(Refusal::Host));
        assert_eq!(check(&remote, "192.168.0.7:80"), Ok(()));
        assert_eq!(local.check_site(&HeaderMap::new()), Err(Refusal::Host));
        let two = headers(&[(header::HOST, "localhost"), (header::HOST, "localhost")]);
        assert_eq!(local.check_site(&two), Err(Refusal::Host));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let local = access(&[], false);
        let check = |origin: &str| {
            local.check_site(&headers(&[
                (header::HOST, "127.0.0.1:80"),
                (header::ORIGIN, origin),
            ]))
        };
        assert_eq!(check("http://127.0.0.1:80"), Ok(()));
        assert_eq!(check("https://127.0.0.1:80"), Ok(()));
        for origin in [
            "null",
            "",
            "http://evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:8080",
            "http://localhost:80",
            "http://127.0.0.1:80.evil.example",
            "127.0.0.1:80",
        ] {
            assert_eq!(check(origin), Err(Refusal::Origin), "{origin}");
        }
        let two = [
            (header::HOST, "127.0.0.1:80"),
            (header::ORIGIN, "http://127.0.0.1:80"),
            (header::ORIGIN, "null"),
        ];
        assert_eq!(local.check_site(&headers(&two)), Err(Refusal::Origin));
    }

    #[test]
    fn a_request_needs_the_token() {
        let local = access(&[], false);
        let check = |value: &str| local.check_token(&headers(&[(header::AUTHORIZATION, value)]));
        assert_eq!(check("Bearer secret"), Ok(()));
        for wrong in ["Bearer ", "Bearer secre", "Bearer secreT", "Bearer secret1"] {
            assert_eq!(check(wrong), Err(Refusal::WrongToken), "{wrong}");
        }
        for none in ["secret", "Basic secret", ""] {
            assert_eq!(check(none), Err(Refusal::NoToken), "{none}");
        }
        assert_eq!(local.check_token(&HeaderMap::new()), Err(Refusal::NoToken));
        let from = |site: &str| {
            local.check_token(&headers(&[
                (header::AUTHORIZATION, "Bearer secret"),
                (FETCH_SITE, site),
            ]))
        };
        assert_eq!(from("same-origin"), Ok(()));
        assert_eq!(from("same-site"), Err(Refusal::Origin));
        assert_eq!(from("cross-site"), Err(Refusal::Origin));
    }
}
