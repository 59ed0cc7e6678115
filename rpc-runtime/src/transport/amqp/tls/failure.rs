//! What an error of rustls means for who connects.

use std::error::Error;
use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as RustlsError};

use crate::error::TlsFailure;

/// What failed about TLS; nothing where it was something else, such as the network.
pub(in super::super) fn of(error: &io::Error) -> Option<TlsFailure> {
    let error: &(dyn Error + 'static) = error.get_ref()?;
    if let Some(inner) = error.downcast_ref::<io::Error>() {
        return of(inner);
    }
    Some(meaning(error.downcast_ref::<RustlsError>()?))
}

fn meaning(error: &RustlsError) -> TlsFailure {
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
        // The first bytes that came are no record of TLS.
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
    fn an_error_is_known_however_deep_it_lies() {
        let untrusted = RustlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, untrusted));
        assert_eq!(of(&wrapped), Some(TlsFailure::Untrusted));
        assert_eq!(of(&io::Error::other("reset")), None);
        assert_eq!(of(&io::ErrorKind::ConnectionReset.into()), None);

        let refused = RustlsError::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(
            of(&io::Error::other(refused)),
            Some(TlsFailure::ClientCertificate)
        );
        let expired = RustlsError::InvalidCertificate(CertificateError::Expired);
        assert_eq!(of(&io::Error::other(expired)), Some(TlsFailure::OutOfDate));
    }
}
