//! What tasks wait for.

// Under test not tokio's: that one wakes those that wait in a random order, which no seed of ours decides, and a simulation
// has to be repeatable.
#[cfg(not(test))]
pub(crate) use tokio::sync::watch;

#[cfg(test)]
pub(crate) mod watch;
