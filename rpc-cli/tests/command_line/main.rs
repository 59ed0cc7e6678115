//! The program as people and scripts use it, against a real RabbitMQ: what it prints, and what it
//! ends with.

mod calls;
mod dead;
mod failures;
mod files;
mod measuring;
mod new;
mod program;
mod services;
