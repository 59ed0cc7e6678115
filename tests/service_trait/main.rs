//! What a service trait may be: every accepted form, called through a client.
//!
//! The calls are made in the process: what they show is the generated code and the codecs, not a broker.

mod arguments;
mod evolution;
mod generics;
mod in_process;
mod names;
mod surroundings;
