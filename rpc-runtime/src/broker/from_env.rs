//! Creates a builder from environment variables. [`environment`](super::environment) parses them.
//! This file reads them, and the files that they name.

use super::builder::BrokerBuilder;
use super::environment::{self, Settings};
#[cfg(feature = "tls")]
use super::environment::{NamedFile, TlsFiles};
use crate::error::BrokerError;
#[cfg(feature = "tls")]
use crate::error::Cause;
#[cfg(feature = "tls")]
use crate::transport::amqp::Tls;

impl BrokerBuilder {
    /// Reads the addresses and options from this process's environment variables, and the files
    /// that they name. A variable that is not set, or empty, has its default. Options that the
    /// program sets afterwards replace those of the environment.
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `AMQP_URL` | the address, or several separated by commas (`%2c` is a comma within an address): see [`Broker::connect`](crate::Broker::connect) | none |
    /// | `RPC_RUNTIME_APP_ID` | [`app_id`](Self::app_id), at most 255 bytes | none |
    /// | `RPC_RUNTIME_CONNECTION_NAME` | [`connection_name`](Self::connection_name) | the program's name |
    /// | `RPC_RUNTIME_CONNECT_TIMEOUT` | [`connect_timeout`](Self::connect_timeout): a time such as `10s` or `1m 30s`, 1ms to 60m | `10s` |
    /// | `RPC_RUNTIME_HEARTBEAT` | [`heartbeat`](Self::heartbeat), unless the address has one: a time in whole seconds such as `10s` or `1m 30s`, 1s to 65535s | `10s` |
    /// | `RPC_RUNTIME_MAX_ACCEPTED_BYTES` | [`max_accepted_bytes`](Self::max_accepted_bytes): bytes, or a number with `KiB` or `MiB` | `16MiB` |
    /// | `RPC_RUNTIME_MAX_SENT_BYTES` | [`max_sent_bytes`](Self::max_sent_bytes): bytes, or a number with `KiB` or `MiB` | `16MiB` |
    /// | `RPC_RUNTIME_REPLY_QUEUE` | [`reply_queue`](Self::reply_queue): `resumable`, `exclusive` or `direct` | `resumable` |
    /// | `RPC_RUNTIME_SEND_USER_ID` | [`send_user_id`](Self::send_user_id): `true` or `false` | `false` |
    /// | `RPC_RUNTIME_TLS_CA_FILE` | a PEM file with the CAs to trust instead of the system's (feature `tls`) | the system's |
    /// | `RPC_RUNTIME_TLS_CERTIFICATE_FILE` | a PEM file with this client's certificate and the intermediate ones (feature `tls`) | none |
    /// | `RPC_RUNTIME_TLS_KEY_FILE` | a PEM file with the private key of that certificate, not encrypted (feature `tls`) | none |
    ///
    /// # Errors
    ///
    /// [`BrokerError::Environment`] if a value is invalid, if a file cannot be read, if only one of
    /// the certificate and its key is set, or if a variable begins with `RPC_RUNTIME_` and is not
    /// in this table. The error names the variable, and never repeats a value. If your environment
    /// uses such variables for another purpose, leave them out with [`from_vars`](Self::from_vars).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
    /// use rpc_runtime::BrokerBuilder;
    ///
    /// let broker = BrokerBuilder::from_env()?.app_id("shop").lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env() -> Result<Self, BrokerError> {
        let mut variables = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| environment::may_be_option(name)) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => variables.push((name.to_owned(), value)),
                Err(_) => return Err(environment::error(name, "is not text in UTF-8")),
            }
        }
        Self::from_vars(variables)
    }

    /// Like [`from_env`](Self::from_env), with names and values that you choose.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    ///
    /// ```no_run
    /// use rpc_runtime::BrokerBuilder;
    ///
    /// // Kubernetes sets such variables for a service called "rpc-runtime".
    /// let kubernetes = ["RPC_RUNTIME_SERVICE_", "RPC_RUNTIME_PORT"];
    /// let is_ours = |name: &str| !kubernetes.iter().any(|prefix| name.starts_with(prefix));
    /// let variables = std::env::vars().filter(|(name, _)| is_ours(name));
    /// let builder = BrokerBuilder::from_vars(variables)?;
    /// # Ok::<_, rpc_runtime::BrokerError>(())
    /// ```
    pub fn from_vars(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, BrokerError> {
        let settings = Settings::parse(variables)?;
        Ok(Self {
            #[cfg(feature = "tls")]
            tls: read_tls(&settings.tls)?,
            ..settings.builder
        })
    }
}

/// Reads the TLS options from files. `None` if no file is named.
#[cfg(feature = "tls")]
fn read_tls(files: &TlsFiles) -> Result<Option<Tls>, BrokerError> {
    let read_file = |file: &NamedFile| {
        std::fs::read(&file.path).map_err(|error| BrokerError::Environment {
            variable: file.variable.to_owned(),
            problem: "names a file that cannot be read".to_owned(),
            source: Some(Cause::new(error)),
        })
    };
    if files.authority.is_none() && files.identity.is_none() {
        return Ok(None);
    }
    let mut tls = Tls::new();
    if let Some(authority) = &files.authority {
        tls = tls.ca_certificate_pem(read_file(authority)?);
    }
    if let Some((certificate, key)) = &files.identity {
        tls = tls.identity_pem(read_file(certificate)?, read_file(key)?);
    }
    Ok(Some(tls))
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_a_missing_file_names_its_variable_and_not_the_value() {
        let variables = [
            ("AMQP_URL", "amqps://rabbit"),
            ("RPC_RUNTIME_TLS_CA_FILE", "-----BEGIN CERTIFICATE-----"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let error = BrokerBuilder::from_vars(variables).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable RPC_RUNTIME_TLS_CA_FILE names a file that cannot be read"
        );
        assert!(!format!("{error:?}").contains("BEGIN"), "{error:?}");
    }
}
