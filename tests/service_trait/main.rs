//! What a service trait may be: every accepted form, called through a client.
//!
//! The calls are made in the process: what they show is the generated code and the codecs, not a
//! broker.

mod attributes;
mod conversions;
mod default_bodies;
mod descriptions;
mod evolution;
mod forms;
mod generics;
mod hygiene;
mod in_process;
mod macro_rules;
mod methods;
mod mocking;
mod names;
mod nested_calls;
mod plain_text;
mod serde_attributes;
mod supertraits;
mod values;
mod visibility;
mod wire;
