//! The packages for Python and TypeScript: their own tests, the modules that `rpc generate` writes,
//! and callers and workers in Rust, Python and TypeScript with one another.

mod callers;
mod cases;
mod conformance;
mod foreign;
mod generated;
mod kills;
mod packages;
mod programs;
mod project;
mod raw_requests;
mod survivor;
mod workers;
