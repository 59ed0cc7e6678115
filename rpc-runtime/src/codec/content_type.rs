//! The codecs and their content types.

use std::fmt;
use std::str::FromStr;

use super::unknown_name::UnknownName;

/// The format of arguments and results: the `content_type` of a message.
///
/// The caller chooses it with [`ClientBuilder::codec`](crate::ClientBuilder::codec). The worker
/// answers in the codec of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// `application/msgpack`: compact, and the default. Structs are maps by name. An argument or a
    /// result of bytes is `bin`; a `Vec<u8>` within another value is an array, as serde writes it.
    #[default]
    MessagePack,
    /// `application/json`.
    Json,
    /// `text/plain`: one scalar, such as text, a number or a boolean in UTF-8, or raw bytes, as
    /// RabbitMQ's tutorials send it.
    ///
    /// It works for methods with at most one argument whose argument and result are scalars. A
    /// service error arrives as text.
    Text,
}

impl Codec {
    /// The value of a message's `content_type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::MessagePack => "application/msgpack",
            Self::Json => "application/json",
            Self::Text => "text/plain",
        }
    }

    /// Returns the codec of a content type. `None` if the content type is empty or
    /// `application/octet-stream`, which say nothing about the format.
    ///
    /// Case is ignored, and so are parameters, except for a charset, which must be UTF-8 or
    /// US-ASCII.
    pub(crate) fn from_content_type(content_type: &str) -> Result<Option<Self>, UnsupportedContentType> {
        // Most peers send exactly these, which need no parsing.
        let all = [Self::MessagePack, Self::Json, Self::Text];
        if let Some(codec) = all.iter().find(|codec| codec.content_type() == content_type) {
            return Ok(Some(*codec));
        }
        let content_type = content_type.to_ascii_lowercase();
        let mut parts = content_type.split(';').map(str::trim);
        let codec = match parts.next().unwrap_or_default() {
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
                Some(Self::MessagePack)
            }
            "application/json" | "application/x-json" | "text/json" => Some(Self::Json),
            "text/plain" => Some(Self::Text),
            // The defaults of some clients.
            "" | "application/octet-stream" => None,
            _ => return Err(UnsupportedContentType::Type(content_type)),
        };
        if parts.all(is_supported_parameter) {
            Ok(codec)
        } else {
            Err(UnsupportedContentType::Charset(content_type))
        }
    }
}

/// Whether a parameter of a content type is supported: it is not a charset, or the charset is UTF-8
/// or its subset US-ASCII.
fn is_supported_parameter(parameter: &str) -> bool {
    match parameter.split_once('=') {
        Some((name, charset)) if name.trim() == "charset" => {
            let charset = charset.trim().trim_matches('"');
            matches!(charset, "utf-8" | "utf8" | "us-ascii" | "ascii")
        }
        _ => true,
    }
}

/// Parses `msgpack`, `json`, `text` or a content type.
///
/// ```
/// use rpc_runtime::Codec;
///
/// assert_eq!("json".parse(), Ok(Codec::Json));
/// assert_eq!(Codec::Text.to_string().parse(), Ok(Codec::Text));
/// let unknown = "yaml".parse::<Codec>().unwrap_err();
/// assert_eq!(unknown.to_string(), "unknown name: use msgpack, json or text");
/// ```
impl FromStr for Codec {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "msgpack" => Ok(Self::MessagePack),
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            content_type => match Self::from_content_type(content_type) {
                Ok(Some(codec)) => Ok(codec),
                Ok(None) | Err(_) => Err(UnknownName::new("msgpack, json or text")),
            },
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.content_type())
    }
}

/// A content type that no codec supports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnsupportedContentType {
    #[error("unsupported content type {0:?}: use application/msgpack, application/json or text/plain")]
    Type(String),
    #[error("unsupported charset in the content type {0:?}: use utf-8")]
    Charset(String),
}
