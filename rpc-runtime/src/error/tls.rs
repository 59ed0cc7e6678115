//! What prevents a TLS connection.

/// What is in the way of a TLS connection. Its text says what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFailure {
    /// Nobody who is trusted here has signed the broker's certificate.
    #[error(
        "nobody who is trusted here signed the broker's certificate: give the CA that did with Tls::ca_certificate_pem"
    )]
    Untrusted,

    /// The broker's certificate is for another host.
    #[error("the broker's certificate is for another host: connect by a name that it holds")]
    WrongName,

    /// The broker's certificate is not valid at this time.
    #[error(
        "the broker's certificate has expired or is not valid yet: renew it, or set the clock of this machine"
    )]
    OutOfDate,

    /// The broker wants a certificate of the client, or does not take the one that it was given.
    #[error("the broker wants a client certificate that its own CA signed: give one with Tls::identity_pem")]
    ClientCertificate,

    /// The address says `amqps://`, and the port does not speak TLS.
    #[error("the port does not speak TLS: use the broker's TLS port, which is 5671 by default")]
    NotTls,

    /// The address says `amqp://`, and the port speaks TLS.
    #[error("the port speaks TLS: use amqps://")]
    NotPlain,

    /// Anything else, as the error's source says. A broker with no more than TLS 1.2 ends the handshake so where it wants a client
    /// certificate and is given none.
    #[error(
        "the handshake failed: there is no version or cipher in common, or the broker wants a client certificate"
    )]
    Handshake,
}
