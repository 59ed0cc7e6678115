//! What an operator sees of calls and requests.

mod outcome;

pub(crate) use outcome::Outcome;
