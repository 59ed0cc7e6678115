//! Wraps a format's serializer or deserializer, to correct the numbers that it handles wrongly.
//!
//! - `serde_json` writes a float that is not finite as `null`.
//! - `rmp-serde` writes an `i128` or a `u128` as bytes, however small it is, and reads a negative
//!   integer as a large `u128`.
//! - With its feature `arbitrary_precision`, which any crate of the application can enable,
//!   `serde_json` passes numbers to serde as structs or maps in a private form. Other formats and
//!   serde's own buffers do not know that form.

mod de;
mod format;
mod ser;
mod text;

pub(super) use de::ReadNumbers;
pub(super) use format::{ARBITRARY_PRECISION, Json, MessagePack};
pub(super) use ser::WriteNumbers;
