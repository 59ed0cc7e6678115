//! Collects errors, so that one compilation shows all of them.

use std::fmt::Display;

use quote::ToTokens;

#[derive(Default)]
pub(super) struct Errors(Vec<syn::Error>);

impl Errors {
    /// Adds an error that underlines the tokens `at`.
    pub(super) fn push(&mut self, at: impl ToTokens, message: impl Display) {
        self.0.push(syn::Error::new_spanned(at, message));
    }

    /// Returns the value, or adds the error and returns `None`.
    pub(super) fn keep<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// Combines the errors into one, or returns `None` if there are none.
    pub(super) fn combine(self) -> Option<syn::Error> {
        self.0.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        })
    }
}
