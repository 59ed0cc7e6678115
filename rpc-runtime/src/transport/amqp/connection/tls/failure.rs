//! Classifies errors of rustls.

use std::error::Error;
use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as RustlsError};

use crate::error::TlsFailure;

/// The peer closed the connection during the TLS handshake, without an alert.
///
/// RabbitMQ with TLS 1.2 does this if it requires a client certificate and gets none: it closes the
/// connection before it has read all of the client's messages, and its alert is lost.
#[derive(Debug, thiserror::Error)]
#[error("the broker closed the connection during the TLS handshake")]
pub(super) struct HandshakeClosed(#[source] io::Error);

impl HandshakeClosed {
    /// Wraps an error of the handshake if it only says that the peer closed the connection.
    pub(super) fn wrap_if_closed(error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self(error).into(),
            _ => error,
        }
    }
}

impl From<HandshakeClosed> for io::Error {
    fn from(closed: HandshakeClosed) -> Self {
        Self::new(closed.0.kind(), closed)
    }
}

/// What failed in TLS. `None` if something else failed, such as the network before or after the
/// handshake.
pub(crate) fn failure_of(error: &io::Error) -> Option<TlsFailure> {
    let error: &(dyn Error + 'static) = error.get_ref()?;
    // One `io::Error` may wrap another.
    if let Some(inner) = error.downcast_ref::<io::Error>() {
        return failure_of(inner);
    }
    if error.is::<HandshakeClosed>() {
        return Some(TlsFailure::Handshake);
    }
    Some(classify(error.downcast_ref::<RustlsError>()?))
}

/// The failure whose text tells the user what to do about an error of rustls.
fn classify(error: &RustlsError) -> TlsFailure {
    match error {
        RustlsError::InvalidCertificate(problem) => match problem {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFailure::WrongName
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFailure::OutOfDate,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFailure::Untrusted,
            _ => TlsFailure::Handshake,
        },
        // In most cases, the first bytes from the peer are not a TLS record.
        RustlsError::InvalidMessage(_) => TlsFailure::NotTls,
        RustlsError::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => TlsFailure::ClientCertificate,
        _ => TlsFailure::Handshake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_error_is_classified_at_any_depth() {
        let untrusted = RustlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, untrusted));
        assert_eq!(failure_of(&wrapped), Some(TlsFailure::Untrusted));
        assert_eq!(failure_of(&io::Error::other("reset")), None);
        assert_eq!(failure_of(&io::ErrorKind::ConnectionReset.into()), None);

        let closed = HandshakeClosed::wrap_if_closed(io::ErrorKind::ConnectionReset.into());
        assert_eq!(failure_of(&closed), Some(TlsFailure::Handshake));
        let refused_port = HandshakeClosed::wrap_if_closed(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(failure_of(&refused_port), None);

        let refused = RustlsError::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(
            failure_of(&io::Error::other(refused)),
            Some(TlsFailure::ClientCertificate)
        );
        let expired = RustlsError::InvalidCertificate(CertificateError::Expired);
        assert_eq!(
            failure_of(&io::Error::other(expired)),
            Some(TlsFailure::OutOfDate)
        );
    }
}
