//! Checks and inserts the headers that users and tracing add to a message.

use super::headers::Headers;
use super::invalid_name::InvalidName;
use super::reserved_header::check_not_reserved;
use super::short_str::ShortStr;

/// The maximum size of a call's headers on the wire, in bytes, without those that the library adds
/// later. AMQP puts all properties of a message into one frame, and a broker may be configured for
/// frames of 8 KiB.
const MAX_BYTES: usize = 4096;

/// Why a header is invalid.
#[derive(Debug)]
pub(crate) struct InvalidHeader {
    /// The invalid part, in words: a name, or all headers together.
    pub(crate) what: &'static str,
    pub(crate) source: InvalidName,
}

/// Adds a header to the headers of a call.
///
/// # Errors
///
/// If the name is too long or reserved, or if all headers together are too long.
pub(crate) fn insert_user_header(
    headers: &mut Headers,
    name: impl AsRef<str>,
    value: impl Into<String>,
) -> Result<(), InvalidHeader> {
    let invalid_name = |source| InvalidHeader {
        what: "a header's name",
        source,
    };
    let name = ShortStr::new(name).map_err(|error| invalid_name(error.into()))?;
    check_not_reserved(name.as_str()).map_err(invalid_name)?;
    let value = value.into();
    let length = headers.wire_bytes_with(name.as_str(), &value);
    if length > MAX_BYTES {
        return Err(InvalidHeader {
            what: "the headers",
            source: InvalidName::TooLong {
                length,
                limit: MAX_BYTES,
            },
        });
    }
    headers.insert(name, value);
    Ok(())
}
