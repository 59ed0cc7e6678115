//! Faults: the error replies of a worker's runtime, sent instead of the method's reply.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::executed::Executed;
use crate::escape::write_cut_off;

/// A failure in the worker's runtime: the method's own result or error is not available.
///
/// On the wire, a fault is a reply with the `type` `fault`. Its body is `{code, message}` in the
/// request's content type, or `code: message` in plain text.
///
/// ```
/// use std::time::Duration;
///
/// use rpc_runtime::{Fault, FaultCode};
///
/// let fault = Fault::new(FaultCode::Rejected, "too busy");
/// let fault = fault.with_retry_after(Duration::from_secs(1));
/// assert_eq!(fault.to_string(), "rejected: too busy");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Fault {
    /// The kind of fault.
    pub code: FaultCode,
    /// What happened, for a human reader. It is empty if the worker sent only the code, or a
    /// message that is not text.
    pub message: String,
    /// How long to wait before the next attempt, counted from the arrival of the fault. `None` if
    /// the worker does not say. On the wire this is the reply's header `rpc-retry-after`, in
    /// milliseconds.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => self.code.fmt(f),
            message => write!(f, "{}: {message}", self.code),
        }
    }
}

impl Fault {
    /// Creates a fault of this kind.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Sets [`retry_after`](Self::retry_after): how long the caller should wait before its next
    /// attempt.
    #[must_use]
    pub fn with_retry_after(self, time: Duration) -> Self {
        Self {
            retry_after: Some(time),
            ..self
        }
    }

    /// Creates the fault [`FaultCode::UnknownMethod`]: the service has no such method.
    #[must_use]
    pub fn unknown_method(method: &str) -> Self {
        Self::new(
            FaultCode::UnknownMethod,
            format!("the service has no method {method:?}"),
        )
    }

    pub(crate) fn bad_request(reason: impl fmt::Display) -> Self {
        Self::with_reason(FaultCode::BadRequest, reason)
    }

    /// Creates a fault whose reason may quote the request. A long reason is truncated, so that a
    /// large request does not cause a large reply.
    pub(crate) fn with_reason(code: FaultCode, reason: impl fmt::Display) -> Self {
        let mut message = String::new();
        // Fails only if the reason's own `Display` does. Then the message ends there.
        let _ = write_cut_off(&mut message, MAX_REASON, reason);
        Self::new(code, message)
    }

    /// Parses the output of `Display`, which is a fault's body in `text/plain`. What is before the
    /// first `: ` is the code, known or not. Text without a `: ` that is not a known code becomes
    /// the message of a fault with the code `fault`.
    pub(crate) fn from_text(text: &str) -> Self {
        if let Some((code, message)) = text.split_once(": ") {
            return Self::new(FaultCode::from_wire(code), message);
        }
        // A code without a message, perhaps with the colon that would be before one.
        let code = FaultCode::from_wire(text.trim().trim_end_matches(':'));
        match code.known_str() {
            Some(_) => Self::new(code, ""),
            None => Self::new(FaultCode::Other("fault".into()), text),
        }
    }
}

/// The maximum length of a reason, in bytes, before the `…` that marks where it was cut off.
const MAX_REASON: usize = 1024;

/// The kind of a [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultCode {
    /// `unknown_method`: the service has no method of that name, or the request names none and the
    /// service has no default method.
    UnknownMethod,
    /// `bad_request`: the message is malformed, its arguments cannot be decoded, or the method
    /// cannot be called in this content type.
    BadRequest,
    /// `unsupported_content_type`: the worker does not know the request's `content_type` or its
    /// `content_encoding`, such as a compression.
    UnsupportedContentType,
    /// `panicked`: the method, or a layer of the worker around it, panicked.
    Panicked,
    /// `interrupted`: the request was delivered before, and not acknowledged, because its worker or
    /// the broker was lost. The method may have run. It may also not have begun, for example behind
    /// other calls of its batch. It is not run now, because it is not `idempotent`, or because this
    /// worker refuses the request for another reason. A stream also ends with it if its worker
    /// stops or is silent.
    Interrupted,
    /// `expired`: no time was left when the method was to start, or less than it recently took; see
    /// [`Server::admission`](crate::Server::admission).
    Expired,
    /// `too_large`: the request exceeds the worker's size limit.
    TooLarge,
    /// `reply_too_large`: the method ran, but its reply exceeds the worker's size limit for
    /// replies.
    ReplyTooLarge,
    /// `unanswerable`: the method ran, but its result or error cannot be encoded in the content
    /// type of the request.
    Unanswerable,
    /// `unauthorized`: the caller may not call this method; see
    /// [`Authorize`](crate::middleware::Authorize).
    Unauthorized,
    /// `rejected`: a layer of the worker refused the request before its method started, for example
    /// to shed load; see [`middleware`](crate::middleware).
    Rejected,
    /// `abandoned`: a layer of the worker aborted the method after it had started, for example
    /// because it took too long.
    Abandoned,
    /// A code that this version does not know.
    Other(String),
}

impl FaultCode {
    /// Returns the code as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(code) => code,
            known => known.known_str().unwrap_or_default(),
        }
    }

    /// All codes that this version knows.
    pub(crate) const KNOWN: [Self; 12] = [
        Self::UnknownMethod,
        Self::BadRequest,
        Self::UnsupportedContentType,
        Self::Panicked,
        Self::Interrupted,
        Self::Expired,
        Self::TooLarge,
        Self::ReplyTooLarge,
        Self::Unanswerable,
        Self::Unauthorized,
        Self::Rejected,
        Self::Abandoned,
    ];

    /// Returns the code as it stands on the wire, or `None` if this version does not know it.
    pub(crate) fn known_str(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownMethod => "unknown_method",
            Self::BadRequest => "bad_request",
            Self::UnsupportedContentType => "unsupported_content_type",
            Self::Panicked => "panicked",
            Self::Interrupted => "interrupted",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::ReplyTooLarge => "reply_too_large",
            Self::Unanswerable => "unanswerable",
            Self::Unauthorized => "unauthorized",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
            Self::Other(_) => return None,
        })
    }

    pub(crate) fn from_wire(code: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|known| known.as_str() == code);
        known.unwrap_or_else(|| Self::Other(code.to_owned()))
    }

    /// Whether the method ran.
    #[must_use]
    pub fn executed(&self) -> Executed {
        match self {
            Self::UnknownMethod
            | Self::BadRequest
            | Self::UnsupportedContentType
            | Self::Expired
            | Self::TooLarge
            | Self::Unauthorized
            | Self::Rejected => Executed::No,
            Self::Panicked | Self::ReplyTooLarge | Self::Unanswerable => Executed::Yes,
            Self::Interrupted | Self::Abandoned | Self::Other(_) => Executed::Maybe,
        }
    }
}

/// Parses a code as it stands on the wire. A code that this version does not know is
/// [`FaultCode::Other`].
///
/// ```
/// use rpc_runtime::FaultCode;
///
/// assert_eq!("expired".parse(), Ok(FaultCode::Expired));
/// assert_eq!("brand_new".parse(), Ok(FaultCode::Other("brand_new".into())));
/// ```
impl FromStr for FaultCode {
    type Err = Infallible;

    fn from_str(code: &str) -> Result<Self, Infallible> {
        Ok(Self::from_wire(code))
    }
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of a fault in a structured content type.
#[derive(Serialize, Deserialize)]
pub(crate) struct FaultBody<'a> {
    #[serde(borrow)]
    pub(crate) code: Cow<'a, str>,
    /// For a human reader. A message of an unexpected type must not prevent the code from being
    /// read.
    #[serde(default, borrow, deserialize_with = "text_or_empty")]
    pub(crate) message: Cow<'a, str>,
}

/// Deserializes text. Anything else becomes an empty text.
fn text_or_empty<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, str>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Message<'a> {
        Text(#[serde(borrow)] Cow<'a, str>),
        Other(IgnoredAny),
    }

    Ok(match Message::deserialize(deserializer)? {
        Message::Text(text) => text,
        Message::Other(_) => Cow::Borrowed(""),
    })
}

impl<'a> From<&'a Fault> for FaultBody<'a> {
    fn from(fault: &'a Fault) -> Self {
        Self {
            code: fault.code.as_str().into(),
            message: fault.message.as_str().into(),
        }
    }
}

impl From<FaultBody<'_>> for Fault {
    fn from(body: FaultBody<'_>) -> Self {
        Self::new(FaultCode::from_wire(&body.code), body.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn codes_survive_the_wire() {
        let unknown = [FaultCode::Other("made_up".into())];
        for code in FaultCode::KNOWN.into_iter().chain(unknown) {
            assert_eq!(code.as_str().parse(), Ok(code));
        }
    }

    #[test]
    fn text_faults_read_back() {
        let fault = Fault::unknown_method("nope");
        assert_eq!(
            fault.to_string(),
            r#"unknown_method: the service has no method "nope""#
        );
        assert_eq!(Fault::from_text(&fault.to_string()), fault);
        assert_eq!(Fault::from_text("boom").message, "boom");
        for text in ["rejected", "rejected:", "rejected: ", "rejected\n"] {
            assert_eq!(
                Fault::from_text(text),
                Fault::new(FaultCode::Rejected, ""),
                "{text:?}"
            );
        }
        assert_eq!(Fault::new(FaultCode::Rejected, "").to_string(), "rejected");
    }

    #[test]
    fn the_code_is_read_even_if_the_message_is_invalid() {
        for body in [
            r#"{"code":"rejected"}"#,
            r#"{"code":"rejected","message":null}"#,
            r#"{"message":7,"code":"rejected"}"#,
            r#"{"code":"rejected","message":{"text":["busy"]},"retry":true}"#,
            r#"["rejected"]"#,
        ] {
            let fault = Fault::from(Codec::Json.decode::<FaultBody<'_>>(body.as_bytes()).unwrap());
            assert_eq!(fault, Fault::new(FaultCode::Rejected, ""), "{body}");
        }
        let body = b"\x81\xa4code\xa8rejected";
        let fault = Fault::from(Codec::MessagePack.decode::<FaultBody<'_>>(body).unwrap());
        assert_eq!(fault.code, FaultCode::Rejected);
    }

    #[test]
    fn a_long_reason_is_truncated_at_a_character_boundary() {
        let reason = "é".repeat(MAX_REASON);
        for reason in [reason.clone(), format!("x{reason}")] {
            let Fault { message, .. } = Fault::bad_request(&reason);
            assert!((MAX_REASON - 1..=MAX_REASON + '…'.len_utf8()).contains(&message.len()));
            assert_eq!(
                message.strip_suffix('…').map(|start| reason.starts_with(start)),
                Some(true)
            );
        }
        let whole = "x".repeat(MAX_REASON);
        assert_eq!(Fault::bad_request(&whole).message, whole);
    }

    #[test]
    fn a_display_that_ignores_errors_writes_no_more() {
        struct Careless;

        impl fmt::Display for Careless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for text in ["x".repeat(MAX_REASON), "y".repeat(MAX_REASON), "z".to_owned()] {
                    let _ = f.write_str(&text);
                }
                Ok(())
            }
        }

        let expected = format!("{}…", "x".repeat(MAX_REASON));
        assert_eq!(Fault::bad_request(Careless).message, expected);
    }

    #[test]
    fn an_unknown_code_means_that_the_method_may_have_run() {
        assert_eq!(FaultCode::Other("x".into()).executed(), Executed::Maybe);
    }
}
