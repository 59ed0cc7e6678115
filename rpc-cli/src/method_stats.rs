//! The statistics of methods: adds up what workers count, and compares two updates.

pub(crate) mod counts;
pub(crate) mod durations;
pub(crate) mod history;
pub(crate) mod rows;
