//! The properties `content_type` and `content_encoding` of a message.

use super::{Properties, ShortStr};
use crate::codec::{Codec, UnsupportedContentType};

/// The values of `content_encoding` that do not change the body. Some clients put a charset there.
const IDENTITY: [&str; 6] = ["identity", "utf-8", "utf8", "us-ascii", "ascii", "binary"];

/// Returns the codec of a message's body, or `None` if its content type does not determine one.
///
/// # Errors
///
/// If the body is in a content type or an encoding that this library cannot read.
pub(crate) fn codec_of(properties: &Properties) -> Result<Option<Codec>, UnsupportedContent> {
    let codec = Codec::from_content_type(as_str(&properties.content_type))?;
    let encoding = as_str(&properties.content_encoding).trim();
    let is_identity = IDENTITY.iter().any(|name| name.eq_ignore_ascii_case(encoding));
    if encoding.is_empty() || is_identity {
        return Ok(codec);
    }
    Err(UnsupportedContent::Encoding {
        encoding: encoding.to_owned(),
        codec,
    })
}

/// Returns the `content_type` for the reply to a request with these properties. `None` if the
/// codec's own name will do, or if the request's `content_type` does not determine a codec.
///
/// A caller that uses another name of a content type may not know the codec's own, so the reply
/// repeats the caller's, but without the charset US-ASCII.
pub(crate) fn reply_content_type(properties: &Properties) -> Option<ShortStr> {
    let sent = properties.content_type.as_ref()?;
    let name = sent.as_str();
    let codec = Codec::from_content_type(name).ok().flatten()?;
    if name == codec.content_type() {
        return None;
    }
    if name.to_ascii_lowercase().contains("ascii") {
        // The request may be in US-ASCII, but the reply is UTF-8.
        let without_parameters = name.split(';').next().unwrap_or_default();
        return ShortStr::new(without_parameters.trim()).ok();
    }
    Some(sent.clone())
}

fn as_str(property: &Option<ShortStr>) -> &str {
    property.as_ref().map_or("", ShortStr::as_str)
}

/// A body that this library cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnsupportedContent {
    #[error(transparent)]
    Type(#[from] UnsupportedContentType),
    #[error("unsupported content encoding {encoding:?}: send the body unencoded")]
    Encoding {
        encoding: String,
        /// The codec that the `content_type` names, if any.
        codec: Option<Codec>,
    },
}

impl UnsupportedContent {
    /// Returns the codec that the sender can most likely read.
    pub(crate) fn readable_codec(&self) -> Codec {
        match self {
            Self::Encoding { codec, .. } => codec.unwrap_or(Codec::Text),
            // The content type or its charset is not supported, but its sender may still read text.
            Self::Type(_) => Codec::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(content_type: &'static str, content_encoding: &'static str) -> Properties {
        Properties {
            content_type: Some(ShortStr::from_static(content_type)),
            content_encoding: Some(ShortStr::from_static(content_encoding)),
            ..Properties::default()
        }
    }

    #[test]
    fn an_encoding_that_changes_the_body_is_unsupported() {
        for encoding in [
            "gzip",
            "deflate",
            "br",
            "zstd",
            "base64",
            "latin-1",
            "utf-16",
            "gzip, utf-8",
        ] {
            let error = codec_of(&properties("application/json", encoding)).unwrap_err();
            assert!(error.to_string().contains(encoding), "{error}");
            assert_eq!(error.readable_codec(), Codec::Json);
        }
        for encoding in ["", "identity", "UTF-8", "utf8", "us-ascii", "binary", " utf-8 "] {
            let read = codec_of(&properties("application/json", encoding));
            assert_eq!(read, Ok(Some(Codec::Json)), "{encoding}");
        }
        assert_eq!(codec_of(&Properties::default()), Ok(None));
    }

    #[test]
    fn a_reply_repeats_the_callers_name_of_the_content_type() {
        let reply_content_type = |content_type| reply_content_type(&properties(content_type, ""));
        for name in [
            "application/x-msgpack",
            "application/vnd.msgpack",
            "text/json",
            "Application/JSON",
            "application/json; charset=utf-8",
        ] {
            assert_eq!(reply_content_type(name).unwrap().as_str(), name);
        }
        assert_eq!(
            reply_content_type("text/plain; charset=us-ascii")
                .unwrap()
                .as_str(),
            "text/plain"
        );
        for name in ["", "application/msgpack", "application/octet-stream", "image/png"] {
            assert_eq!(reply_content_type(name), None, "{name}");
        }
    }
}
