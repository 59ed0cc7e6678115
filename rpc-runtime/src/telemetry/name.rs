//! Names of services and methods, as labels of spans and metrics.

use std::fmt;
use std::sync::Arc;

/// A name that is cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static(name) => name,
            Self::Shared(name) => name,
        })
    }
}

#[cfg(feature = "metrics")]
impl From<Name> for metrics::SharedString {
    fn from(name: Name) -> Self {
        match name {
            Name::Static(name) => Self::const_str(name),
            Name::Shared(name) => Self::from_shared(name),
        }
    }
}
