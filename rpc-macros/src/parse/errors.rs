//! Collecting what is wrong with a service, so that one compile shows all of it.

use std::fmt::Display;

use quote::ToTokens;

/// The refusals so far.
#[derive(Default)]
pub(super) struct Errors(Vec<syn::Error>);

impl Errors {
    /// Refuses the tokens `at`, which is where the user sees the message.
    pub(super) fn push(&mut self, at: impl ToTokens, message: impl Display) {
        self.0.push(syn::Error::new_spanned(at, message));
    }

    /// The value, or `None` and one refusal more.
    pub(super) fn keep<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// The refusals as one error, if there are any.
    pub(super) fn combine(self) -> Option<syn::Error> {
        self.0.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        })
    }
}
