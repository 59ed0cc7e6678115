//! The statistics of methods: adds up what workers count, and compares it with earlier updates. In
//! an update, the workers are asked once.

pub(crate) mod counts;
pub(crate) mod durations;
pub(crate) mod history;
pub(crate) mod rows;
