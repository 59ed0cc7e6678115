//! The commands, one file each.

pub(crate) mod asyncapi;
pub(crate) mod bench;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod console;
pub(crate) mod dead;
pub(crate) mod describe;
pub(crate) mod generate;
pub(crate) mod list;
pub(crate) mod new;
pub(crate) mod ping;
pub(crate) mod stats;
