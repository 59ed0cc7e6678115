//! Dead letters: finds them in their queue, reads them, and sends them again. What commands print
//! about them is left to the commands.

pub(crate) mod find;
pub(crate) mod headers;
pub(crate) mod letter;
pub(crate) mod retry;
pub(crate) mod scan;
pub(crate) mod wanted;
