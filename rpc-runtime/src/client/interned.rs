//! Descriptors of services that are known only when the program runs.
//!
//! A call refers to its method's descriptor for as long as the program runs: that costs calls of generated clients nothing. So what is made
//! of a description stays, and is made once of each: of its content, as far as a call has use for it, and up to a bound.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::describe::{MethodDescription, MethodDescriptor, ServiceDescription, ServiceDescriptor};
use crate::protocol::MAX_SHORT_STR;

/// How much may stay, in bytes: some ten thousand services.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Why there can be no client of a described service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDescription {
    /// A method's name on the wire is longer than AMQP takes.
    #[error("the method {name:?} cannot be called: its name has more than 255 bytes")]
    NameTooLong {
        /// The name.
        name: String,
    },

    /// What has to be kept of each service takes too much memory. Only what calls need is kept, and once of descriptions that are alike in
    /// it: this process has seen thousands of different ones.
    #[error("more than {limit} bytes of different services were described to this process")]
    TooManyServices {
        /// The limit in bytes.
        limit: usize,
    },
}

/// The descriptor of a described service, with what calls need of it.
pub(super) fn intern(
    description: &ServiceDescription,
) -> Result<&'static ServiceDescriptor, InvalidDescription> {
    static KNOWN: LazyLock<Mutex<Interned>> = LazyLock::new(|| Mutex::new(Interned::up_to(MAX_BYTES)));
    // A panic in there leaves a descriptor that nobody uses.
    KNOWN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .intern(description)
}

/// All that was made, by the service's name.
struct Interned {
    services: HashMap<&'static str, Vec<&'static ServiceDescriptor>>,
    bytes: usize,
    limit: usize,
}

impl Interned {
    fn up_to(limit: usize) -> Self {
        Self {
            services: HashMap::new(),
            bytes: 0,
            limit,
        }
    }

    fn intern(
        &mut self,
        description: &ServiceDescription,
    ) -> Result<&'static ServiceDescriptor, InvalidDescription> {
        let known = self.services.get(description.name.as_str()).into_iter().flatten();
        if let Some(service) = known.copied().find(|service| is_of(service, description)) {
            return Ok(service);
        }
        let too_long = |method: &&MethodDescription| method.name.len() > MAX_SHORT_STR;
        if let Some(method) = description.methods.iter().find(too_long) {
            return Err(InvalidDescription::NameTooLong {
                name: method.name.clone(),
            });
        }
        let bytes = self.bytes + size(description);
        let limit = self.limit;
        if bytes > limit {
            return Err(InvalidDescription::TooManyServices { limit });
        }
        self.bytes = bytes;
        let methods = description.methods.iter().map(|method| MethodDescriptor {
            is_default: method.is_default,
            is_idempotent: method.is_idempotent,
            is_oneway: method.is_oneway,
            timeout: method.timeout(),
            ..MethodDescriptor::new(kept(&method.name), &[])
        });
        let methods: Box<[_]> = methods.collect();
        let service = ServiceDescriptor::new(
            kept(&description.name),
            kept(&description.queue),
            Box::leak(methods),
        );
        let service: &'static ServiceDescriptor = Box::leak(Box::new(service));
        self.services.entry(service.name).or_default().push(service);
        Ok(service)
    }
}

/// Whether it is what would be made of the description.
fn is_of(service: &ServiceDescriptor, description: &ServiceDescription) -> bool {
    let is_of_method = |(known, method): (&MethodDescriptor, &MethodDescription)| {
        known.name == method.name
            && known.is_default == method.is_default
            && known.is_idempotent == method.is_idempotent
            && known.is_oneway == method.is_oneway
            && known.timeout == method.timeout()
    };
    service.name == description.name
        && service.queue == description.queue
        && service.methods.len() == description.methods.len()
        && service.methods.iter().zip(&description.methods).all(is_of_method)
}

/// How much stays of a description.
fn size(description: &ServiceDescription) -> usize {
    let of_method = |method: &MethodDescription| method.name.len() + size_of::<MethodDescriptor>();
    let methods: usize = description.methods.iter().map(of_method).sum();
    // With its place in the map.
    2 * size_of::<ServiceDescriptor>() + description.name.len() + description.queue.len() + methods
}

fn kept(text: &str) -> &'static str {
    Box::leak(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(methods: &[&str]) -> ServiceDescription {
        let mut service = ServiceDescription::new("Store", "store");
        service.methods = methods.iter().copied().map(MethodDescription::new).collect();
        service
    }

    #[test]
    fn what_is_alike_to_calls_is_made_once() {
        let mut interned = Interned::up_to(10_000);
        let first = interned.intern(&service(&["get", "put"])).unwrap();
        let mut documented = service(&["get", "put"]);
        documented.docs = "Keeps things.".into();
        documented.methods[0].returns = "u64".into();
        let bytes = interned.bytes;
        assert!(std::ptr::eq(interned.intern(&documented).unwrap(), first));
        assert_eq!(interned.bytes, bytes);

        let mut other = service(&["get", "put"]);
        other.methods[1].is_idempotent = true;
        other.methods[1].timeout_ms = Some(7);
        let other = interned.intern(&other).unwrap();
        assert!(!std::ptr::eq(other, first));
        assert!(other.method("put").unwrap().is_idempotent && !first.method("put").unwrap().is_idempotent);
        assert_eq!(other.method("put").unwrap().timeout.unwrap().as_millis(), 7);
        assert_eq!((other.name, other.queue), ("Store", "store"));
        assert!(interned.bytes > bytes);
    }

    #[test]
    fn no_more_stays_than_may() {
        let mut interned = Interned::up_to(10_000);
        let mut made = 0;
        let refused = loop {
            match interned.intern(&service(&[&format!("method {made}")])) {
                Ok(_) => made += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, InvalidDescription::TooManyServices { limit: 10_000 });
        assert!(made > 10 && interned.bytes <= 10_000);
        // Those that are there are still found.
        assert!(interned.intern(&service(&["method 0"])).is_ok());
    }

    #[test]
    fn a_name_that_cannot_be_sent_is_refused() {
        let name = "x".repeat(256);
        let refused = Interned::up_to(10_000).intern(&service(&[&name]));
        assert_eq!(refused.unwrap_err(), InvalidDescription::NameTooLong { name });
    }
}
