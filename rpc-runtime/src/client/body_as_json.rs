//! Shows the body of a message as JSON, for the program `rpc`.

use super::exact_value::ExactValue;
use crate::codec::Codec;

/// Returns a body of this content type as JSON. Its numbers are exact. Plain text becomes a string,
/// and so does a body whose content type is empty or `application/octet-stream`: a worker reads it
/// as plain text, too. Returns `None` if the body cannot be read.
#[must_use]
pub fn body_as_json(content_type: &str, body: &[u8]) -> Option<String> {
    let codec = Codec::from_content_type(content_type).ok()?;
    let value = match codec.unwrap_or(Codec::Text) {
        Codec::Text => ExactValue::String(std::str::from_utf8(body).ok()?.to_owned()),
        codec => ExactValue::from_reply(codec, body).ok()?,
    };
    String::from_utf8(value.to_json().to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_shown_as_json() {
        let json = r#"{"id":18446744073709551617,"to":"a"}"#;
        assert_eq!(
            body_as_json("application/json", json.as_bytes()).as_deref(),
            Some(json)
        );
        let packed = Codec::MessagePack.encode(&("a", 7)).unwrap();
        assert_eq!(
            body_as_json("application/msgpack", &packed).as_deref(),
            Some(r#"["a",7]"#)
        );
        for content_type in ["", "text/plain"] {
            assert_eq!(body_as_json(content_type, b"7").as_deref(), Some(r#""7""#));
        }
        for (content_type, body) in [
            ("application/json", &b"{"[..]),
            ("application/msgpack", b"\xc1"),
            ("text/plain", b"\xff"),
            ("image/png", b"{}"),
        ] {
            assert_eq!(body_as_json(content_type, body), None, "{content_type}");
        }
    }
}
