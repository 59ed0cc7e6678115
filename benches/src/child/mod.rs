//! Other processes of this benchmark. A parent orders one thing of each, and a child ends with its
//! parent.

mod order;
mod process;
pub(crate) mod role;

pub(crate) use order::{Answer, Order};
pub(crate) use process::Process;
