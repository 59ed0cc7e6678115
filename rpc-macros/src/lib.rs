//! The `#[service]` attribute of `rpc-runtime`; use it from there, as `rpc_runtime::service`.
//!
//! An expansion has two halves. `parse` reads the trait, refuses whatever cannot be served (all of it at once) and
//! ends in `model`; `expand` turns that model into code and cannot fail.

use proc_macro::TokenStream;

mod attributes;
mod expand;
mod model;
mod parse;
mod spelling;
mod syntax;
#[cfg(test)]
mod tests;

/// Turns a trait into a service: a trait to implement in a worker, a client to call it, a server to host it.
///
/// ```ignore
/// use rpc_runtime::{service, Context};
///
/// /// Looks users up.
/// #[service(queue = "rpc_queue")]
/// pub trait UserDirectory {
///     /// The e-mail address of one user.
///     #[rpc(default, idempotent)]
///     async fn get_email(&self, id: &str) -> Result<String, DirectoryError>;
///
///     #[rpc(timeout = "2s")]
///     async fn rename(&self, #[rpc(context)] cx: &Context, id: &str, name: String) -> Result<(), DirectoryError>;
///
///     async fn count(&self) -> u64;
///
///     #[rpc(oneway)]
///     async fn touch(&self, data: &[u8]);
/// }
/// ```
///
/// # What is generated
///
/// | item | what it is |
/// |---|---|
/// | `trait UserDirectory` | the same trait; each `async fn` promises a future that is `Send`, and every implementation is `Send + Sync + 'static`. Implementations still write `async fn`; an `Arc` of one is one |
/// | `struct UserDirectoryClient` | one method for each of the trait's, returning a call that can be given options before it is awaited; `new`, `builder` and `in_process` make one |
/// | `struct UserDirectoryServer<T>` | hosts an implementation; hand it to `Server::serve` |
///
/// All three have the visibility of the trait.
///
/// # Options of the service
///
/// | option | default | what it does |
/// |---|---|---|
/// | `queue = "name"` | the name of the trait | the queue that requests are sent to |
/// | `crate = path::to::rpc_runtime` | `::rpc_runtime` | where generated code finds the runtime, for crates that rename or re-export it |
/// | `schema` | off | the service's description has JSON Schemas of all types, which have to be `schemars::JsonSchema`; needs the cargo feature `schema` of rpc-runtime |
///
/// # Options of a method
///
/// Written as `#[rpc(..)]`, in one attribute or several.
///
/// | option | what it does |
/// |---|---|
/// | `default` | the method that a request naming none is for. One method at most |
/// | `idempotent` | running it twice is as good as once, so it may be repeated after a crash or a lost connection |
/// | `oneway` | confirmed by the broker and never answered; such a method returns nothing. Without `idempotent` it is run at most once: if its worker dies under it, the request is rejected, and only a dead-letter queue keeps it |
/// | `timeout = "2s"` | the default time limit of a call: numbers with units, such as `500ms`, `2s`, `1m 30s` or `1h` |
/// | `name = "wire.name"` | the method's name on the wire; the default is its name in the trait. Those that begin with `rpc.` are left to the runtime |
///
/// # Option of a parameter
///
/// `#[rpc(context)]` marks the one parameter that the worker fills in (deadline, headers, who calls). Its type is a
/// reference, as in `cx: &Context`, and the client's method does not have it.
///
/// # Arguments and results
///
/// An argument is owned or borrowed at its outermost level: `&str`, `&[u8]`, `&[T]` and `&T` are sent without being
/// cloned first, and lent to the implementation by the worker. It may have `#[serde(..)]` attributes, as a field of a
/// struct has them: `#[serde(default)]` lets a parameter be added to one side before the other. What a method returns is
/// owned. A return type named `Result` is the method's own success or error; any other type cannot fail but for the
/// network, and a `Result` under another name is refused, unless it mentions a parameter of the trait.
///
/// # More
///
/// Methods may have bodies, and the trait supertraits and parameters. `docs/service-trait.md` in the repository has an
/// example of everything.
#[proc_macro_attribute]
pub fn service(args: TokenStream, item: TokenStream) -> TokenStream {
    expand_service(args.into(), item.into()).into()
}

fn expand_service(
    args: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    match parse::service(args, item) {
        Ok(service) => expand::service(&service),
        Err(refusal) => expand::refusal(refusal),
    }
}
