//! Sets of methods, by name.

/// Names of methods. Each may end with a `*`, which matches any ending.
#[derive(Debug, Clone, Default)]
pub(super) struct MethodNames(Vec<String>);

impl MethodNames {
    pub(super) fn add<M: Into<String>>(&mut self, methods: impl IntoIterator<Item = M>) {
        self.0.extend(methods.into_iter().map(Into::into));
    }

    pub(super) fn contains(&self, method: &str) -> bool {
        self.0.iter().any(|known| match known.strip_suffix('*') {
            Some(beginning) => method.starts_with(beginning),
            None => known == method,
        })
    }
}
