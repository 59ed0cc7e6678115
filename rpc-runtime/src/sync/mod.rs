//! A watch channel with a fixed order of wakeups.

pub(crate) mod watch;
