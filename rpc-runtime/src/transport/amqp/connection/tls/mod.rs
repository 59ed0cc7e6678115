//! TLS: the user's options, and the client made from them.

use std::sync::Arc;
use std::{fmt, io};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

mod failure;

use failure::HandshakeClosed;
pub(super) use failure::failure_of;

use crate::error::{BrokerError, Cause, TlsFailure};

/// The certificates for `amqps://` connections: the certificate authorities to trust, and the
/// client's own certificate. All are PEM, like the files that
/// [RabbitMQ's TLS guide](https://www.rabbitmq.com/docs/ssl) creates.
///
/// The broker's certificate is always verified. The host of the address must be one of the
/// certificate's subject alternative names. TLS 1.2 and 1.3 are supported, through
/// [rustls](https://docs.rs/rustls). Requires the cargo feature `tls`.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rpc_runtime::{Broker, Tls};
///
/// let tls = Tls::new()
///     .ca_certificate_pem(std::fs::read("ca.pem")?)
///     .identity_pem(std::fs::read("client.pem")?, std::fs::read("client.key")?);
/// let broker = Broker::builder().tls(tls).address("amqps://shop:secret@rabbit.example").connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "it does nothing until it is given to a broker's options"]
pub struct Tls {
    authorities: Vec<Vec<u8>>,
    identity: Option<Identity>,
}

#[derive(Clone)]
struct Identity {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Trusts the certificate authorities of this system, or those of `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` if they are set, and has no client certificate. `amqps://` without options
    /// means the same.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in this PEM text, and *not* those of this system.
    ///
    /// A text may have several certificates, and this may be called several times: all of them are
    /// trusted.
    pub fn ca_certificate_pem(mut self, certificates: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(certificates.into());
        self
    }

    /// Sends this certificate to a broker that asks for one. `chain` is the client's own
    /// certificate, followed by the intermediate ones up to the broker's CA. `key` is its private
    /// key in PKCS#8, PKCS#1 or SEC1, not encrypted.
    ///
    /// To also log in with it, without a password, add
    /// [`?auth_mechanism=external`](crate::Broker::connect) to the address.
    pub fn identity_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (chain, key) = (chain.into(), key.into());
        self.identity = Some(Identity { chain, key });
        self
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Makes a client with these options.
    ///
    /// # Errors
    ///
    /// Fails if a certificate or the key is invalid, or if there is no certificate authority to
    /// trust.
    pub(crate) fn client(&self) -> Result<TlsClient, BrokerError> {
        // Not the process-wide provider: a library must neither rely on it nor install it.
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("no TLS version is supported", Some(error)))?
            .with_root_certificates(self.roots()?);
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                config.with_client_auth_cert(chain, key).map_err(|error| {
                    let reason = "the client certificate and its private key do not match";
                    invalid(reason, Some(error))
                })?
            }
        };
        Ok(TlsClient {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// The certificate authorities to trust: the user's, or else those of this system.
    fn roots(&self) -> Result<RootCertStore, BrokerError> {
        const NO_CA: &str =
            "no CA certificate was found: give PEM that begins with -----BEGIN CERTIFICATE-----";
        let mut roots = RootCertStore::empty();
        if self.authorities.is_empty() {
            // Certificates that cannot be parsed are skipped, as other programs do.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let reason = "this system has no CA certificates: install them (ca-certificates), or give your own with Tls::ca_certificate_pem";
                return Err(invalid(reason, None));
            }
        }
        for text in &self.authorities {
            for certificate in certificates(text).ok_or_else(|| invalid(NO_CA, None))? {
                let added = roots.add(certificate);
                added.map_err(|error| invalid("a CA certificate cannot be read", Some(error)))?;
            }
        }
        Ok(roots)
    }
}

impl Identity {
    /// Parses the certificates and the private key.
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BrokerError> {
        let chain = certificates(&self.chain).ok_or_else(|| {
            let reason =
                "no client certificate was found: give PEM that begins with -----BEGIN CERTIFICATE-----";
            invalid(reason, None)
        })?;
        // The parser's own message may quote the text.
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            let reason = "no private key was found: give unencrypted PEM in PKCS#8, PKCS#1 or SEC1";
            invalid(reason, None)
        })?;
        Ok((chain, key))
    }
}

/// All certificates of a PEM text. `None` if there are none, or if one cannot be read.
fn certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    all.ok().filter(|all| !all.is_empty())
}

fn invalid(reason: &'static str, source: Option<rustls::Error>) -> BrokerError {
    let source = source.map(Cause::new);
    BrokerError::InvalidTls { reason, source }
}

/// Shows neither certificates nor the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("has_authorities", &!self.authorities.is_empty())
            .field("has_identity", &self.has_identity())
            .finish_non_exhaustive()
    }
}

/// Makes TLS connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TlsClient {
    connector: TlsConnector,
}

impl TlsClient {
    /// Runs the TLS handshake, which verifies the broker's certificate.
    ///
    /// With TLS 1.3, a broker that refuses the client's certificate reports that only after the
    /// handshake.
    pub(crate) async fn handshake(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connected = self.connector.connect(name, stream).await;
        connected.map_err(HandshakeClosed::wrap_if_closed)
    }

    /// Connects once more to find out why a broker closed the connection. `None` if that was no
    /// failure of TLS.
    ///
    /// A broker that refuses the client's certificate sends an alert and closes the connection. If
    /// that crosses the first bytes of AMQP, the reset can discard the alert. So this sends nothing
    /// after the handshake. A broker that accepts the certificate sends nothing either: the caller
    /// must limit the time.
    pub(crate) async fn find_refusal(&self, (host, port): (&str, u16)) -> Option<TlsFailure> {
        let asking = async {
            let stream = TcpStream::connect((host, port)).await?;
            self.handshake(host, stream).await?.read_u8().await
        };
        asking.await.err().as_ref().and_then(failure_of)
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(tls: &Tls) -> String {
        match tls.client().unwrap_err() {
            BrokerError::InvalidTls { reason, .. } => reason.to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn invalid_pem_is_refused_and_not_shown() {
        assert!(refusal(&Tls::new().ca_certificate_pem("s3cret")).contains("no CA certificate was found"));
        let unended = "-----BEGIN CERTIFICATE-----\ns3cret";
        assert!(refusal(&Tls::new().ca_certificate_pem(unended)).contains("no CA certificate was found"));
        let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(refusal(&Tls::new().ca_certificate_pem(nonsense)).contains("CA certificate cannot be read"));

        let shown = format!("{:?}", Tls::new().identity_pem("s3cret", "s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
