//! What a service trait may be: every accepted form, called through a client.
//!
//! The calls are made in the process: what they show is the generated code and the codecs, not a broker.

mod evolution;
mod forms;
mod generics;
mod in_process;
mod methods;
mod names;
mod plain_text;
mod serde_attributes;
mod surroundings;
mod wire;
