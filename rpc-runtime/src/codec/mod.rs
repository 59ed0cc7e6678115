//! Codecs: values to bytes and back, one module for each content type.
//!
//! The `content_type` of a request names its codec; without one, the request is plain text. The
//! worker answers in the same codec.

mod borrowed;
mod content_type;
mod empty_body;
mod encoding;
mod entry;
mod error;
mod json;
mod message_pack;
mod numbers;
#[cfg(test)]
mod round_trips;
mod scratch;
mod small_bodies;
mod text;
mod unknown_name;

pub use borrowed::{ArgumentConversion, ByteSlice, CowBytes, CowStr, NoConversion, bytes};
pub use content_type::Codec;
pub(crate) use content_type::UnsupportedContentType;
pub use error::{DecodeError, EncodeError};
pub(crate) use small_bodies::{MAX_SMALL_BODY, SmallBodies};
pub(crate) use text::ARGUMENTS_STRUCT;
pub use unknown_name::UnknownName;
