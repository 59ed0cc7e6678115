//! Why a TLS connection fails.

/// Why a TLS connection failed. The text says what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFailure {
    /// No trusted certificate authority (CA) has signed the broker's certificate.
    #[error(
        "no trusted CA signed the broker's certificate: add the CA that did with Tls::ca_certificate_pem"
    )]
    Untrusted,

    /// The broker's certificate is for another host name.
    #[error("the broker's certificate is for another host: connect by a host name that it contains")]
    WrongName,

    /// The broker's certificate has expired or is not valid yet.
    #[error(
        "the broker's certificate has expired or is not valid yet: renew it, or set the clock of this machine"
    )]
    OutOfDate,

    /// The broker requires a client certificate, or does not accept the one that it got.
    #[error(
        "the broker requires a client certificate from a CA that it trusts: give one with Tls::identity_pem"
    )]
    ClientCertificate,

    /// The address begins with `amqps://`, but the port does not speak TLS.
    #[error("the port does not speak TLS: use the broker's TLS port, which is 5671 by default")]
    NotTls,

    /// The address begins with `amqp://`, but the port speaks TLS.
    #[error("the port speaks TLS: use amqps://")]
    NotPlain,

    /// Any other failure; see the error's source. A broker that supports at most TLS 1.2 also fails
    /// this way if it requires a client certificate and gets none, and so does a port that closes
    /// connections at once, such as a load balancer's without a broker.
    #[error(
        "the handshake failed: there is no common version or cipher, the broker requires a client certificate, or it closed the connection"
    )]
    Handshake,
}
