//! What an operator sees: traces and metrics. A target of its own, as both are installed for a
//! whole process.

mod metrics;
mod traces;
