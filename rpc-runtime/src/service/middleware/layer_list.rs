//! The layers of a builder, without their types.

/// Layers around a service of type `S`, in the order in which they were added.
pub(crate) struct LayerList<S>(Vec<Box<Wrap<S>>>);

/// Puts a layer around a service.
type Wrap<S> = dyn Fn(S) -> S + Send + Sync;

impl<S> LayerList<S> {
    /// Adds a layer inside the others.
    pub(crate) fn push(&mut self, wrap: impl Fn(S) -> S + Send + Sync + 'static) {
        self.0.push(Box::new(wrap));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the service behind all layers, or `None` without layers.
    pub(crate) fn wrap(&self, service: S) -> Option<S> {
        let (innermost, outer) = self.0.split_last()?;
        Some(outer.iter().rfold(innermost(service), |inner, wrap| wrap(inner)))
    }
}

impl<S> Default for LayerList<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}
