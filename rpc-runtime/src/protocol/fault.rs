//! Faults: what a worker's runtime answers in place of the method.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::executed::Executed;

/// The worker's runtime could not answer with the method's own result or error.
///
/// On the wire: a reply of `type` `fault` whose body is `{code, message}` in the request's content type, and
/// `code: message` in plain text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Fault {
    /// What kind of fault.
    pub code: FaultCode,
    /// What happened, for a person to read. It is empty if the worker said no more than the code.
    pub message: String,
    /// When another try is worth it, counted from the arrival of the fault. `None` if the worker
    /// does not say. On the wire it is the reply's header `rpc-retry-after`, in milliseconds.
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
    /// A fault of this kind.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The same fault, which tells the caller when another try is worth it.
    #[must_use]
    pub fn with_retry_after(self, time: Duration) -> Self {
        Self {
            retry_after: Some(time),
            ..self
        }
    }

    /// The service has no such method.
    #[must_use]
    pub fn unknown_method(method: &str) -> Self {
        Self::new(
            FaultCode::UnknownMethod,
            format!("the service has no method {method:?}"),
        )
    }

    /// The request cannot be understood.
    pub(crate) fn bad_request(reason: impl fmt::Display) -> Self {
        Self::because(FaultCode::BadRequest, reason)
    }

    /// A fault for a reason that may quote the request. So it is cut where it gets long: the answer to megabytes of nonsense is no
    /// larger than they are.
    pub(crate) fn because(code: FaultCode, reason: impl fmt::Display) -> Self {
        let mut message = Shortened(String::new());
        // An error says no more than that the rest is left out.
        let _ = write!(message, "{reason}");
        Self::new(code, message.0)
    }

    /// Reads its `Display` back, which is what a peer that speaks `text/plain` gets; other text is kept whole as the message.
    pub(crate) fn from_text(text: &str) -> Self {
        if let Some((code, message)) = text.split_once(": ") {
            return Self::new(FaultCode::from_wire(code), message);
        }
        let code = FaultCode::from_wire(text.trim().trim_end_matches(':'));
        match code.known() {
            Some(_) => Self::new(code, ""),
            None => Self::new(FaultCode::Other("fault".into()), text),
        }
    }
}

/// How much of a reason is told, in bytes.
const MAX_REASON: usize = 1024;

/// Text that ends in `…` where it would be longer than [`MAX_REASON`].
struct Shortened(String);

impl Write for Shortened {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_REASON - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        self.0.push_str(&text[..end]);
        self.0.push('…');
        Err(fmt::Error)
    }
}

/// The kinds of [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultCode {
    /// `unknown_method`: the service has no method of that name, or no default one where none was named.
    UnknownMethod,
    /// `bad_request`: the arguments could not be read, or the method cannot be called in this content type.
    BadRequest,
    /// `unsupported_content_type`: the worker does not know the request's `content_type`, or the body is compressed
    /// (`content_encoding`).
    UnsupportedContentType,
    /// `panicked`: the method panicked.
    Panicked,
    /// `interrupted`: an earlier delivery of this request was lost with its worker; the method may have run, and is not
    /// run again: it is not `idempotent`, or this worker refuses the request for another reason.
    Interrupted,
    /// `expired`: the request came with no time left, or with less than its method has recently needed; see
    /// [`Server::admission`](crate::Server::admission).
    Expired,
    /// `too_large`: the request is larger than the worker accepts.
    TooLarge,
    /// `reply_too_large`: the method ran, and its answer is larger than the worker may send.
    ReplyTooLarge,
    /// `unanswerable`: the method ran, and its answer cannot be written in the request's content type.
    Unanswerable,
    /// `unauthorized`: the caller may not call this method; see [`Authorize`](crate::service::Authorize).
    Unauthorized,
    /// `rejected`: a layer of the worker refused the request before its method began, for example because there is too much to do;
    /// see [`middleware`](crate::middleware).
    Rejected,
    /// `abandoned`: a layer of the worker gave up on the method once it had begun, for example because it took too long.
    Abandoned,
    /// A code that this version does not know.
    Other(String),
}

impl FaultCode {
    /// The code as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(code) => code,
            known => known.known().unwrap_or_default(),
        }
    }

    /// All that this version knows.
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

    /// The code as it stands on the wire, if this version knows it.
    pub(crate) fn known(&self) -> Option<&'static str> {
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
    /// For people, so it must not keep the code from being read.
    #[serde(default, borrow, deserialize_with = "text_or_nothing")]
    pub(crate) message: Cow<'a, str>,
}

/// Reads text, and anything else as the empty text.
fn text_or_nothing<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, str>, D::Error> {
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
        for code in [
            FaultCode::UnknownMethod,
            FaultCode::BadRequest,
            FaultCode::UnsupportedContentType,
            FaultCode::Panicked,
            FaultCode::Interrupted,
            FaultCode::Expired,
            FaultCode::TooLarge,
            FaultCode::ReplyTooLarge,
            FaultCode::Unanswerable,
            FaultCode::Unauthorized,
            FaultCode::Other("made_up".into()),
        ] {
            assert_eq!(FaultCode::from_wire(code.as_str()), code);
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
    fn the_code_counts_whatever_the_message_is() {
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
    fn a_long_reason_is_cut_at_a_character() {
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
    fn an_unknown_code_does_not_claim_that_nothing_ran() {
        assert_eq!(FaultCode::Other("x".into()).executed(), Executed::Maybe);
    }
}
