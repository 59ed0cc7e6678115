//! Values that layers pass on to the method.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Values that a server's layers add to a request for the method and the inner layers: at most one
/// of each type.
///
/// A layer that authenticates the caller adds the result with
/// [`IncomingCall::extensions_mut`](crate::middleware::IncomingCall::extensions_mut). The method
/// reads it from its [`Context`](crate::Context::extensions). The values never leave the worker.
///
/// ```
/// # use rpc_runtime::{Context, service};
/// /// The claims of a token.
/// struct Claims {
///     tenant: String,
/// }
///
/// #[service]
/// pub trait Orders {
///     async fn count(&self, #[rpc(context)] cx: &Context) -> Result<u64, String>;
/// }
///
/// struct Book;
///
/// impl Orders for Book {
///     async fn count(&self, cx: &Context) -> Result<u64, String> {
///         let claims = cx.extensions().get::<Claims>().ok_or("who are you?")?;
///         Ok(claims.tenant.len() as u64)
///     }
/// }
/// ```
// Most requests have no values. The box keeps this at the size of a pointer.
#[allow(clippy::box_collection)]
#[derive(Clone, Default)]
pub struct Extensions(Option<Box<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>);

impl Extensions {
    /// Adds a value. Returns whether it replaced one of the same type. Later clones of the request
    /// share the value.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) -> bool {
        let values = self.0.get_or_insert_default();
        values.insert(TypeId::of::<T>(), Arc::new(value)).is_some()
    }

    /// Returns the value of this type. `None` if no layer has added one.
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.as_ref()?.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

/// Shows the number of values only: they may be secret.
impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.as_ref().map_or(0, |values| values.len());
        write!(f, "{count} values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_of_each_type() {
        let mut extensions = Extensions::default();
        assert_eq!(extensions.get::<u32>(), None);
        assert!(!extensions.insert(7_u32));
        assert!(!extensions.insert("seven"));
        assert!(extensions.insert(8_u32));
        let clone = extensions.clone();
        assert_eq!(
            (clone.get::<u32>(), clone.get::<&str>()),
            (Some(&8), Some(&"seven"))
        );
        assert_eq!(format!("{clone:?}"), "2 values");
    }
}
