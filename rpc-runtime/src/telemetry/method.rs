//! The method of a call or a request, as spans and metrics name it.

use std::fmt;
use std::sync::{Arc, OnceLock};

#[cfg(feature = "metrics")]
use super::handles::Handles;
use super::name::Name;
use crate::escape::OneLine;

/// The method of a call or a request. Cheap to clone. A client or a worker makes one for each of
/// its methods and keeps it, because the clones share what is costly to make.
#[derive(Clone)]
pub(crate) struct Method(Arc<Shared>);

struct Shared {
    service: Name,
    method: Name,
    full_name: OnceLock<String>,
    #[cfg(feature = "metrics")]
    handles: Handles,
}

impl Method {
    pub(crate) fn new(service: Name, method: Name) -> Self {
        Self(Arc::new(Shared {
            service,
            method,
            full_name: OnceLock::new(),
            #[cfg(feature = "metrics")]
            handles: Handles::default(),
        }))
    }

    /// Returns `Service/method`, escaped for a log.
    pub(super) fn full_name(&self) -> &str {
        let Shared { service, method, .. } = &*self.0;
        self.0
            .full_name
            .get_or_init(|| OneLine(format_args!("{service}/{method}")).to_string())
    }
}

#[cfg(feature = "metrics")]
impl Method {
    pub(super) fn service(&self) -> &Name {
        &self.0.service
    }

    pub(super) fn method(&self) -> &Name {
        &self.0.method
    }

    pub(super) fn handles(&self) -> &Handles {
        &self.0.handles
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.full_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_begin_a_line_of_a_log() {
        let method = Method::new(Name::Static("Store"), Name::Shared("re\nad".into()));
        assert_eq!(method.full_name(), r"Store/re\nad");
    }
}
