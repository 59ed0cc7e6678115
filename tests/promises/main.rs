//! What the library promises, a module a promise, against a real RabbitMQ and against the in-process broker.

mod calls;
