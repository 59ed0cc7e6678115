//! The constants that the `service` attribute generates for a trait. Callers and workers read them.

use std::time::Duration;

use super::retry_policy::RetryPolicy;
use super::schemas::{SchemaSource, Schemas};

/// A service: its name, its default request queue, and its methods.
///
/// The [`service`](macro@crate::service) attribute generates one for each trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceDescriptor {
    /// The trait's name.
    pub name: &'static str,
    /// The request queue that callers and workers use unless they choose another.
    pub queue: &'static str,
    /// The methods, in the order of the trait.
    pub methods: &'static [MethodDescriptor],
    /// The trait's documentation. Empty if it has none.
    pub docs: &'static str,
    pub(super) schemas: Option<SchemaSource>,
}

impl ServiceDescriptor {
    /// Creates a service without documentation.
    #[must_use]
    pub const fn new(name: &'static str, queue: &'static str, methods: &'static [MethodDescriptor]) -> Self {
        Self {
            name,
            queue,
            methods,
            docs: "",
            schemas: None,
        }
    }

    /// Sets the documentation.
    #[must_use]
    pub const fn docs(mut self, docs: &'static str) -> Self {
        self.docs = docs;
        self
    }

    /// Sets the function that adds the schemas of the service's types. For generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn schemas(mut self, make: fn(&mut Schemas)) -> Self {
        self.schemas = Some(SchemaSource(make));
        self
    }

    /// Returns the method with this name on the wire.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&'static MethodDescriptor> {
        self.methods.iter().find(|method| method.name == name)
    }
}

/// A method of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodDescriptor {
    /// The name on the wire: AMQP's `type` of its requests.
    pub name: &'static str,
    /// The names of the arguments, in order.
    pub arguments: &'static [&'static str],
    /// Whether it serves requests without a `type`.
    pub is_default: bool,
    /// Whether it may run more than once: a redelivered request is run again.
    pub is_idempotent: bool,
    /// Whether it has no reply: a call ends when the broker has confirmed the request.
    pub is_oneway: bool,
    /// Whether all workers of the queue run it, instead of one of them.
    pub is_broadcast: bool,
    /// Whether workers stop it once its caller no longer waits, although it is not `idempotent`.
    pub is_cancellable: bool,
    /// Whether it replies with a stream of items.
    pub is_streaming: bool,
    /// The Rust type of the items that its caller sends while it runs. `None` if it receives none.
    pub incoming: Option<&'static str>,
    /// The argument that gets the last item if its stream is interrupted. `None` if the stream is
    /// not resumed.
    pub resumed_by: Option<&'static str>,
    /// How often it is retried if it fails, for a job. `None` if a failed job goes to the
    /// dead-letter queue at once.
    pub retry: Option<RetryPolicy>,
    /// How long a caller waits unless the call sets another limit. `None` for the client's timeout.
    pub timeout: Option<Duration>,
    /// The method's documentation. Empty if it has none.
    pub docs: &'static str,
    /// The details of each argument, in order. Empty if they are not known.
    pub argument_details: &'static [ArgumentDescriptor],
    /// The Rust type that it returns if it succeeds, or of each item. Empty if it is not known.
    pub returns: &'static str,
    /// The Rust type of its error, if it can fail.
    pub error: Option<&'static str>,
}

impl MethodDescriptor {
    /// Creates a method that replies, runs at most once, and has no timeout of its own.
    ///
    /// # Panics
    ///
    /// Panics if the name is longer than the 255 bytes that AMQP's `type` holds. A `const` then
    /// does not compile.
    #[must_use]
    pub const fn new(name: &'static str, arguments: &'static [&'static str]) -> Self {
        assert!(
            name.len() <= 255,
            "a method's name on the wire holds at most 255 bytes"
        );
        Self {
            name,
            arguments,
            is_default: false,
            is_idempotent: false,
            is_oneway: false,
            is_broadcast: false,
            is_cancellable: false,
            is_streaming: false,
            incoming: None,
            resumed_by: None,
            retry: None,
            timeout: None,
            docs: "",
            argument_details: &[],
            returns: "",
            error: None,
        }
    }

    /// Makes the method serve requests without a `type`.
    #[must_use]
    pub const fn default_method(mut self) -> Self {
        self.is_default = true;
        self
    }

    /// Allows the method to run more than once.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Makes the method one-way: it has no reply.
    #[must_use]
    pub const fn oneway(mut self) -> Self {
        self.is_oneway = true;
        self
    }

    /// Makes all workers of the queue run the method.
    #[must_use]
    pub const fn broadcast(mut self) -> Self {
        self.is_broadcast = true;
        self
    }

    /// Lets workers stop the method once its caller no longer waits. They stop `idempotent` methods
    /// and those with streams in any case.
    #[must_use]
    pub const fn cancellable(mut self) -> Self {
        self.is_cancellable = true;
        self
    }

    /// Whether workers stop the method once its caller no longer waits.
    #[must_use]
    pub const fn can_be_cancelled(&self) -> bool {
        let may_be_stopped = self.is_cancellable || self.is_idempotent || self.has_stream();
        let one_worker_replies = !self.is_oneway && !self.is_broadcast;
        may_be_stopped && one_worker_replies
    }

    /// Whether it replies with a stream, or receives one.
    pub(crate) const fn has_stream(&self) -> bool {
        self.is_streaming || self.incoming.is_some()
    }

    /// Makes the method reply with a stream of items.
    #[must_use]
    pub const fn streaming(mut self) -> Self {
        self.is_streaming = true;
        self
    }

    /// Makes the method receive a stream of items from its caller. Sets their Rust type.
    #[must_use]
    pub const fn incoming(mut self, type_name: &'static str) -> Self {
        self.incoming = Some(type_name);
        self
    }

    /// Makes callers resume the method's stream if it is interrupted: they call the method again
    /// with the last item as this argument.
    #[must_use]
    pub const fn resumed_by(mut self, argument: &'static str) -> Self {
        self.resumed_by = Some(argument);
        self
    }

    /// Sets how often a job is retried.
    #[must_use]
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Whether its requests are jobs: workers run each of them at least once, or keep it in the
    /// dead-letter queue.
    #[must_use]
    pub const fn is_job(&self) -> bool {
        self.is_oneway && self.is_idempotent && !self.is_broadcast
    }

    /// Sets how long a caller waits unless the call sets another limit.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the documentation.
    #[must_use]
    pub const fn docs(mut self, docs: &'static str) -> Self {
        self.docs = docs;
        self
    }

    /// Sets the details of each argument, in order.
    ///
    /// # Panics
    ///
    /// Panics if their number is not that of the arguments. A `const` then does not compile.
    #[must_use]
    pub const fn argument_details(mut self, details: &'static [ArgumentDescriptor]) -> Self {
        assert!(
            details.len() == self.arguments.len(),
            "the number of details is not the number of arguments"
        );
        self.argument_details = details;
        self
    }

    /// Sets the Rust type that it returns if it succeeds, or of each item.
    #[must_use]
    pub const fn returns(mut self, type_name: &'static str) -> Self {
        self.returns = type_name;
        self
    }

    /// Sets the Rust type of its error.
    #[must_use]
    pub const fn error(mut self, type_name: &'static str) -> Self {
        self.error = Some(type_name);
        self
    }
}

/// The details of a method's argument.
///
/// They are separate from the names because only the names are read for each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArgumentDescriptor {
    /// The Rust type, as the trait spells it.
    pub type_name: &'static str,
    /// Whether a caller may leave it out.
    pub is_optional: bool,
    /// Other names that a worker accepts for it.
    pub aliases: &'static [&'static str],
}

impl ArgumentDescriptor {
    /// Creates an argument that is required and has one name.
    #[must_use]
    pub const fn new(type_name: &'static str) -> Self {
        Self {
            type_name,
            is_optional: false,
            aliases: &[],
        }
    }

    /// Allows callers to leave it out.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    /// Sets other names under which a worker reads it.
    #[must_use]
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}
