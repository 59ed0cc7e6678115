//! What a service is, as constants: the macro writes them, callers and workers read them.

use std::time::Duration;

use super::ServiceDescription;
use super::schemas::{SchemaSource, Schemas};

/// A service: its name, the queue its requests go to by default, and its methods.
///
/// The [`service`](crate::service) attribute generates one for each trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceDescriptor {
    /// The trait's name.
    pub name: &'static str,
    /// The request queue, unless caller and worker choose another.
    pub queue: &'static str,
    /// The methods, in the order of the trait.
    pub methods: &'static [MethodDescriptor],
    /// The trait's documentation; empty where it has none.
    pub docs: &'static str,
    pub(super) schemas: Option<SchemaSource>,
}

impl ServiceDescriptor {
    /// A service without documentation.
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

    /// Sets what makes the schemas. For generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn schemas(mut self, make: fn(&mut Schemas)) -> Self {
        self.schemas = Some(SchemaSource(make));
        self
    }

    /// The method of that name on the wire.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&'static MethodDescriptor> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// The same, to keep, send and compare.
    ///
    /// Of a service with `#[service(schema)]`, this makes the JSON Schemas too, each time: keep it where it is needed often.
    #[must_use]
    pub fn description(&self) -> ServiceDescription {
        self.into()
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
    /// Serves requests that name no method.
    pub is_default: bool,
    /// May run more than once: a redelivered request is run again.
    pub is_idempotent: bool,
    /// Is confirmed by the broker and never answered.
    pub is_oneway: bool,
    /// How long a caller waits, unless client or call say otherwise.
    pub timeout: Option<Duration>,
    /// The method's documentation; empty where it has none.
    pub docs: &'static str,
    /// What there is to know of each argument beside its name; empty where that was not told.
    pub argument_details: &'static [ArgumentDescriptor],
    /// The Rust type of what it returns where it succeeds; empty where that was not told.
    pub returns: &'static str,
    /// The Rust type of its own error, if it has one.
    pub error: Option<&'static str>,
}

impl MethodDescriptor {
    /// A method that is answered, runs at most once and has the client's time limit.
    ///
    /// # Panics
    ///
    /// If the name is longer than the 255 bytes that AMQP's `type` holds; in a `const`, that does not compile.
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
            timeout: None,
            docs: "",
            argument_details: &[],
            returns: "",
            error: None,
        }
    }

    /// Serves requests that name no method.
    #[must_use]
    pub const fn default_method(mut self) -> Self {
        self.is_default = true;
        self
    }

    /// May run more than once.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Is never answered.
    #[must_use]
    pub const fn oneway(mut self) -> Self {
        self.is_oneway = true;
        self
    }

    /// Sets how long a caller waits.
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

    /// Sets what there is to know of each argument beside its name.
    ///
    /// # Panics
    ///
    /// If it is not as many as there are names; in a `const`, that does not compile.
    #[must_use]
    pub const fn argument_details(mut self, details: &'static [ArgumentDescriptor]) -> Self {
        assert!(
            details.len() == self.arguments.len(),
            "there are details of another number of arguments than there are names"
        );
        self.argument_details = details;
        self
    }

    /// Sets the Rust type of what it returns where it succeeds.
    #[must_use]
    pub const fn returns(mut self, type_name: &'static str) -> Self {
        self.returns = type_name;
        self
    }

    /// Sets the Rust type of its own error.
    #[must_use]
    pub const fn error(mut self, type_name: &'static str) -> Self {
        self.error = Some(type_name);
        self
    }
}

/// What there is to know of a method's argument beside its name.
///
/// It is kept apart from the names, which each call looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArgumentDescriptor {
    /// The Rust type, as the trait has it.
    pub type_name: &'static str,
    /// Whether a caller may leave it out.
    pub is_optional: bool,
    /// Other names under which a worker reads it.
    pub aliases: &'static [&'static str],
}

impl ArgumentDescriptor {
    /// An argument that every caller has to send, under its one name.
    #[must_use]
    pub const fn new(type_name: &'static str) -> Self {
        Self {
            type_name,
            is_optional: false,
            aliases: &[],
        }
    }

    /// May be left out by callers.
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
