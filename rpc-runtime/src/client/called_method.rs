//! The service and the method of a call: static descriptors for generated clients, and shared
//! descriptions for dynamic clients and for encoded calls.

use std::sync::Arc;
use std::time::Duration;

use crate::describe::{MethodDescription, MethodDescriptor, ServiceDescription, ServiceDescriptor};
use crate::protocol::ShortStr;
use crate::telemetry::{Method, Name};

/// Why no client can be made from a service description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDescription {
    /// The name of a method is longer than 255 bytes.
    #[error("the method {name:?} cannot be called: its name has more than 255 bytes")]
    NameTooLong {
        /// The name.
        name: String,
    },
}

/// The service that a client calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum CalledService {
    Static(&'static ServiceDescriptor),
    Described(Arc<DescribedService>),
}

/// The method of a call. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum CalledMethod {
    Static(&'static MethodDescriptor),
    Described(Arc<DescribedMethod>),
}

/// The parts of a service description that calls need.
#[derive(Debug)]
pub(crate) struct DescribedService {
    name: Arc<str>,
    queue: String,
    methods: Box<[Arc<DescribedMethod>]>,
}

/// The parts of a method description that calls need.
#[derive(Debug)]
pub(crate) struct DescribedMethod {
    name: Arc<str>,
    /// The name as the AMQP property `type` of a request.
    wire_name: ShortStr,
    is_idempotent: bool,
    is_oneway: bool,
    is_broadcast: bool,
    timeout: Option<Duration>,
}

impl CalledService {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Static(service) => service.name,
            Self::Described(service) => &service.name,
        }
    }

    /// Returns the name for spans and metrics.
    pub(super) fn label(&self) -> Name {
        match self {
            Self::Static(service) => Name::Static(service.name),
            Self::Described(service) => Name::Shared(Arc::clone(&service.name)),
        }
    }

    /// Returns the methods for spans and metrics, in the order of their indices.
    pub(super) fn method_labels(&self) -> Arc<[Method]> {
        let label = |method| Method::new(self.label(), method);
        match self {
            Self::Static(service) => {
                let names = service.methods.iter().map(|method| Name::Static(method.name));
                names.map(label).collect()
            }
            Self::Described(service) => {
                let names = service
                    .methods
                    .iter()
                    .map(|method| Name::Shared(Arc::clone(&method.name)));
                names.map(label).collect()
            }
        }
    }

    pub(super) fn queue(&self) -> &str {
        match self {
            Self::Static(service) => service.queue,
            Self::Described(service) => &service.queue,
        }
    }

    pub(super) fn method_count(&self) -> usize {
        match self {
            Self::Static(service) => service.methods.len(),
            Self::Described(service) => service.methods.len(),
        }
    }

    /// Returns the index of a method. `None` if the service does not have it.
    pub(super) fn method_index(&self, method: &str) -> Option<usize> {
        match self {
            Self::Static(service) => service.methods.iter().position(|known| known.name == method),
            Self::Described(service) => service.methods.iter().position(|known| *known.name == *method),
        }
    }
}

impl CalledMethod {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Static(method) => method.name,
            Self::Described(method) => &method.name,
        }
    }

    /// Returns the name as the AMQP property `type` of a request.
    pub(super) fn wire_name(&self) -> ShortStr {
        match self {
            Self::Static(method) => ShortStr::from_static(method.name),
            Self::Described(method) => method.wire_name.clone(),
        }
    }

    /// Returns the name for spans and metrics.
    pub(super) fn label(&self) -> Name {
        match self {
            Self::Static(method) => Name::Static(method.name),
            Self::Described(method) => Name::Shared(Arc::clone(&method.name)),
        }
    }

    /// Whether a request may be sent again after it may have run. Never for a broadcast, whatever
    /// its description says: workers run each copy.
    pub(super) fn is_idempotent(&self) -> bool {
        let is_idempotent = match self {
            Self::Static(method) => method.is_idempotent,
            Self::Described(method) => method.is_idempotent,
        };
        is_idempotent && !self.is_broadcast()
    }

    pub(super) fn is_oneway(&self) -> bool {
        match self {
            Self::Static(method) => method.is_oneway,
            Self::Described(method) => method.is_oneway,
        }
    }

    /// Whether the method is a job; see [`MethodDescriptor::is_job`].
    pub(super) fn is_job(&self) -> bool {
        self.is_oneway() && self.is_idempotent()
    }

    /// Whether all workers of the queue run the method.
    pub(super) fn is_broadcast(&self) -> bool {
        match self {
            Self::Static(method) => method.is_broadcast,
            Self::Described(method) => method.is_broadcast,
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Static(method) => method.timeout,
            Self::Described(method) => method.timeout,
        }
    }
}

impl DescribedService {
    /// Copies the parts of a description that calls need.
    ///
    /// # Errors
    ///
    /// If the name of a method is too long for AMQP.
    pub(super) fn new(description: &ServiceDescription) -> Result<Self, InvalidDescription> {
        let methods = description.methods.iter().map(DescribedMethod::new);
        Ok(Self {
            name: description.name.as_str().into(),
            queue: description.queue.clone(),
            methods: methods
                .map(|method| method.map(Arc::new))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Returns a service of which only the name and the queue are known.
    pub(super) fn of_queue(name: &str, queue: &str) -> Self {
        Self {
            name: name.into(),
            queue: queue.to_owned(),
            methods: Box::default(),
        }
    }

    pub(super) fn method(&self, name: &str) -> Option<&Arc<DescribedMethod>> {
        self.methods.iter().find(|method| *method.name == *name)
    }
}

impl DescribedMethod {
    /// Returns a job with this name.
    pub(super) fn job(name: ShortStr) -> Self {
        Self {
            name: name.as_str().into(),
            wire_name: name,
            is_idempotent: true,
            is_oneway: true,
            is_broadcast: false,
            timeout: None,
        }
    }

    /// Copies the parts of a description that calls need. Fails if the name is too long for AMQP.
    fn new(description: &MethodDescription) -> Result<Self, InvalidDescription> {
        let name = description.name.as_str();
        let too_long = || InvalidDescription::NameTooLong {
            name: name.to_owned(),
        };
        Ok(Self {
            name: name.into(),
            wire_name: ShortStr::new(name).map_err(|_| too_long())?,
            is_idempotent: description.is_idempotent,
            is_oneway: description.is_oneway,
            is_broadcast: description.is_broadcast,
            timeout: description.timeout(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_method_is_called_as_described() {
        let mut description = ServiceDescription::new("Store", "store");
        description.methods = ["get", "put"].map(MethodDescription::new).into();
        description.methods[1].is_idempotent = true;
        description.methods[1].timeout_ms = Some(7);
        let service = DescribedService::new(&description).unwrap();
        let put = CalledMethod::Described(Arc::clone(service.method("put").unwrap()));
        assert_eq!((put.name(), put.wire_name().as_str()), ("put", "put"));
        assert!(put.is_idempotent() && !put.is_oneway());
        assert_eq!(put.timeout(), Some(Duration::from_millis(7)));
        assert!(service.method("erase").is_none());
        let service = CalledService::Described(Arc::new(service));
        assert_eq!((service.name(), service.queue()), ("Store", "store"));
        assert_eq!(
            (service.method_index("put"), service.method_index("erase")),
            (Some(1), None)
        );
    }

    #[test]
    fn a_broadcast_is_never_repeated() {
        let mut description = ServiceDescription::new("Cache", "cache");
        description.methods = vec![MethodDescription::new("clear")];
        let clear = &mut description.methods[0];
        (clear.is_broadcast, clear.is_idempotent, clear.is_oneway) = (true, true, true);
        let service = DescribedService::new(&description).unwrap();
        let clear = CalledMethod::Described(Arc::clone(service.method("clear").unwrap()));
        assert!(!clear.is_idempotent() && !clear.is_job());
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let name = "x".repeat(256);
        let mut description = ServiceDescription::new("Store", "store");
        description.methods = vec![MethodDescription::new(&*name)];
        let refused = DescribedService::new(&description).unwrap_err();
        assert_eq!(refused, InvalidDescription::NameTooLong { name });
    }
}
