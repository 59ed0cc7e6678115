//! TLS: what a user says of it, and the client that comes of it.

use std::sync::Arc;
use std::{fmt, io};

use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

mod failure;

pub(super) use failure::of as failure_of;

use super::socket;
use crate::error::{BrokerError, Cause, TlsFailure};

/// The certificates of connections by `amqps://`: whom to trust, and who this client is. All of them are PEM, as in the
/// files that [RabbitMQ's TLS guide](https://www.rabbitmq.com/docs/ssl) has you make.
///
/// The broker's certificate is always verified, its host name too, as one of the certificate's alternative names (an IP address
/// where the address has one); there is no way to switch that off. TLS 1.2 and 1.3, by [rustls](https://docs.rs/rustls). Needs the cargo feature `tls`.
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
    /// Trusts the certificate authorities of this system (where `SSL_CERT_FILE` and `SSL_CERT_DIR` are set, those there), and
    /// has no certificate of its own. This is also what `amqps://` alone means.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in this PEM text, and *not* those of this system any more. More than once, or with
    /// several certificates in one text: all of them.
    pub fn ca_certificate_pem(mut self, certificates: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(certificates.into());
        self
    }

    /// Shows this certificate to a broker that asks for one. `chain` begins with the client's own certificate, followed by those
    /// between it and the broker's CA; `key` is its private key in PKCS#8, PKCS#1 or SEC1, not encrypted.
    ///
    /// To log in by it as well, without a password, add
    /// [`?auth_mechanism=external`](crate::Broker::connect) to the address.
    pub fn identity_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (chain, key) = (chain.into(), key.into());
        self.identity = Some(Identity { chain, key });
        self
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Reads it all.
    pub(crate) fn client(&self) -> Result<TlsClient, BrokerError> {
        // Not the process-wide provider: whether there is one is not for a library to rely on, or to decide.
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("there is no protocol version to speak", Some(error)))?
            .with_root_certificates(self.roots()?);
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                config.with_client_auth_cert(chain, key).map_err(|error| {
                    let reason = "the client's certificate and its private key do not fit together";
                    invalid(reason, Some(error))
                })?
            }
        };
        Ok(TlsClient {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    fn roots(&self) -> Result<RootCertStore, BrokerError> {
        const NO_CA: &str = "there is no CA certificate in what was given as one: it is PEM, and begins with -----BEGIN CERTIFICATE-----";
        let mut roots = RootCertStore::empty();
        if self.authorities.is_empty() {
            // Those that cannot be read are left out, as everywhere on a system.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let reason = "this system has no CA certificates: install them (ca-certificates), or give your own with Tls::ca_certificate_pem";
                return Err(invalid(reason, None));
            }
        }
        for text in &self.authorities {
            for certificate in certificates(text)
                .filter(|all| !all.is_empty())
                .ok_or_else(|| invalid(NO_CA, None))?
            {
                let added = roots.add(certificate);
                added.map_err(|error| invalid("a CA certificate cannot be read", Some(error)))?;
            }
        }
        Ok(roots)
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BrokerError> {
        let chain = certificates(&self.chain).filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| {
            let reason = "there is no certificate in what was given as the client's: it is PEM, and begins with -----BEGIN CERTIFICATE-----";
            invalid(reason, None)
        })?;
        // The parser's own message may repeat lines of the text.
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            let reason = "there is no private key in what was given as the client's: it is PEM, in PKCS#8, PKCS#1 or SEC1, and not encrypted";
            invalid(reason, None)
        })?;
        Ok((chain, key))
    }
}

/// All certificates of a PEM text; nothing where it cannot be read.
fn certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .ok()
}

fn invalid(reason: &'static str, source: Option<rustls::Error>) -> BrokerError {
    let source = source.map(Cause::new);
    BrokerError::InvalidTls { reason, source }
}

/// Tells nothing of the certificates, and of the key least of all.
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
    async fn handshake(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.connector.connect(name, stream).await
    }
}

/// The handshake of TLS, up to the broker's certificate, and that of AMQP. Where both sides speak TLS 1.3, a broker that refuses the
/// client's certificate says so only in the second.
pub(super) async fn connect(
    client: &TlsClient,
    uri: AMQPUri,
    stream: TcpStream,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let stream = client.handshake(&uri.authority.host, stream).await?;
    socket::hand_over(stream, uri, properties).await
}

/// What was in the way of a connection that ended in the handshake of AMQP.
///
/// A broker that refuses the client's certificate sends an alert and closes the socket. Where AMQP's first bytes crossed them, all that
/// is seen of it may be a reset, so this asks once more, and sends nothing. A broker that is content says nothing either: give it a limit.
pub(super) async fn refused_later(client: &TlsClient, (host, port): (&str, u16)) -> Option<TlsFailure> {
    let asking = async {
        let stream = TcpStream::connect((host, port)).await?;
        client.handshake(host, stream).await?.read_u8().await
    };
    asking.await.err().as_ref().and_then(failure_of)
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
    fn what_is_no_pem_is_refused_by_name_and_not_shown() {
        assert!(refusal(&Tls::new().ca_certificate_pem("s3cret")).contains("no CA certificate"));
        let unended = "-----BEGIN CERTIFICATE-----\ns3cret";
        assert!(refusal(&Tls::new().ca_certificate_pem(unended)).contains("no CA certificate"));
        let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(refusal(&Tls::new().ca_certificate_pem(nonsense)).contains("CA certificate cannot be read"));

        let shown = format!("{:?}", Tls::new().identity_pem("s3cret", "s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
