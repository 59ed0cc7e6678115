//! The underlying error of a `BrokerError`.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The underlying error of a [`BrokerError`](super::BrokerError).
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Cause {
    /// Skips the sources whose text is already the end of the error's own text: many errors repeat
    /// the text of their source.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let text = self.0.to_string();
        let mut source = self.0.source();
        while let Some(repeated) = source.filter(|source| text.ends_with(&source.to_string())) {
            source = repeated.source();
        }
        source
    }
}

impl Cause {
    pub(crate) fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(source.into()))
    }

    /// Returns the error as a `T`, or `None` if it has another type.
    pub(crate) fn downcast_ref<T: Error + 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}
