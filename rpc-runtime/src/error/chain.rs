//! An error and its sources in one line.

use std::error::Error;
use std::fmt;

use crate::escape::OneLine;

/// Displays an error and its sources in one line. The text of an error itself says only what
/// failed; its sources say why. A source is left out if the text before it already ends with it.
///
/// Errors may quote what a peer sent. Line breaks and other control characters are escaped, so that
/// such a text can neither forge a log line nor control a terminal.
///
/// ```
/// # use rpc_runtime::{Broker, CallError, Chain, service};
/// # #[service]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
/// # async fn example(directory: DirectoryClient) {
/// if let Err(error) = directory.get_email("user:1").await {
///     eprintln!("{}", Chain(&error)); // the worker answered with a fault: panicked: the method "get_email" panicked
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Chain<'a, E: ?Sized = dyn Error + 'a>(pub &'a E);

impl<E: ?Sized> Clone for Chain<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: ?Sized> Copy for Chain<'_, E> {}

impl<E: Error + ?Sized> fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = OneLine(self.0).to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let cause = OneLine(error).to_string();
            // Many errors repeat the text of their source.
            if !last.ends_with(&cause) {
                write!(f, ": {cause}")?;
                last = cause;
            }
            source = error.source();
        }
        Ok(())
    }
}
