//! A layer around a format's serializer or deserializer, for numbers that they handle wrongly.
//!
//! - `serde_json` writes a float that is not finite as `null`.
//! - `rmp-serde` writes all integers of 128 bits as bytes, and reads negative ones as unsigned.
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
