//! What `content_type` and `content_encoding` say about a body.

use super::{Properties, ShortStr};
use crate::codec::{Codec, UnsupportedContentType};

/// The values of `content_encoding` that leave a body as it is. Some clients name a charset there.
const IDENTITY: [&str; 6] = ["identity", "utf-8", "utf8", "us-ascii", "ascii", "binary"];

/// The codec of a message's body; `None` if the message names none.
///
/// # Errors
///
/// If the body is in a content type or an encoding that this library cannot read.
pub(crate) fn codec(properties: &Properties) -> Result<Option<Codec>, UnsupportedContent> {
    let codec = Codec::named(as_str(&properties.content_type))?;
    let encoding = as_str(&properties.content_encoding).trim();
    let is_identity = IDENTITY.iter().any(|name| name.eq_ignore_ascii_case(encoding));
    match encoding.is_empty() || is_identity {
        true => Ok(codec),
        false => Err(UnsupportedContent::Encoding {
            encoding: encoding.to_owned(),
            codec,
        }),
    }
}

/// The `content_type` of a reply to a request with these properties, if it differs from the codec's own name.
///
/// A sender that uses another name for a content type may know no other, so its reply has that name too.
pub(crate) fn alias(properties: &Properties) -> Option<ShortStr> {
    let sent = properties.content_type.as_ref()?;
    let codec = Codec::named(sent.as_str()).ok().flatten()?;
    match sent.as_str() {
        name if name == codec.content_type() => None,
        // Replies are UTF-8, whatever subset of it the request was in.
        name if name.to_ascii_lowercase().contains("ascii") => {
            let essence = name.split(';').next().unwrap_or_default();
            ShortStr::new(essence.trim()).ok()
        }
        _ => Some(sent.clone()),
    }
}

fn as_str(property: &Option<ShortStr>) -> &str {
    property.as_ref().map_or("", ShortStr::as_str)
}

/// A body that this library cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnsupportedContent {
    #[error(transparent)]
    Type(#[from] UnsupportedContentType),
    #[error("unsupported content encoding {encoding:?}: send the body as it is")]
    Encoding {
        encoding: String,
        /// The codec of the body once it is decoded; `None` if the message names none.
        codec: Option<Codec>,
    },
}

impl UnsupportedContent {
    /// The codec in which the sender can read an answer.
    pub(crate) fn readable_codec(&self) -> Codec {
        match self {
            Self::Encoding { codec, .. } => codec.unwrap_or(Codec::Text),
            // A peer whose content type is not known may still read text.
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
            let error = codec(&properties("application/json", encoding)).unwrap_err();
            assert!(error.to_string().contains(encoding), "{error}");
            assert_eq!(error.readable_codec(), Codec::Json);
        }
        for encoding in ["", "identity", "UTF-8", "utf8", "us-ascii", "binary", " utf-8 "] {
            let read = codec(&properties("application/json", encoding));
            assert_eq!(read, Ok(Some(Codec::Json)), "{encoding}");
        }
        assert_eq!(codec(&Properties::default()), Ok(None));
    }

    #[test]
    fn another_name_of_a_content_type_is_echoed() {
        let alias = |content_type| alias(&properties(content_type, ""));
        for name in [
            "application/x-msgpack",
            "application/vnd.msgpack",
            "text/json",
            "Application/JSON",
            "application/json; charset=utf-8",
        ] {
            assert_eq!(alias(name).unwrap().as_str(), name);
        }
        assert_eq!(
            alias("text/plain; charset=us-ascii").unwrap().as_str(),
            "text/plain"
        );
        for name in ["", "application/msgpack", "application/octet-stream", "image/png"] {
            assert_eq!(alias(name), None, "{name}");
        }
    }
}
