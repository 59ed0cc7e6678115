//! What tasks wait for.

pub(crate) mod watch;
