//! The `#[service]` attribute of `rpc-runtime`; use it from there, as `rpc_runtime::service`.
//!
//! An expansion has three steps: `syntax` is the trait as it is written, `parse` reads a `model` of
//! the service from it and collects all errors, and `expand` turns the model into code. What only
//! the compiler can check is checked by that code. A trait with errors is emitted again, with stubs
//! of its client and server.

use proc_macro::TokenStream;

mod attributes;
mod expand;
mod model;
mod parse;
mod spelling;
mod syntax;
#[cfg(test)]
mod tests;

/// Turns a trait into a service: a trait to implement in a worker, a client to call it, a server to
/// host it.
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
///     async fn rename(
///         &self,
///         #[rpc(context)] cx: &Context,
///         id: &str,
///         name: String,
///     ) -> Result<(), DirectoryError>;
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
/// | `trait UserDirectory` | the same trait. Each `async fn` returns a `Send` future, and every implementation is `Send + Sync + 'static`. Implementations still write `async fn`. An `Arc` of an implementation is an implementation, if it has the supertraits |
/// | `struct UserDirectoryClient` | one method for each method of the trait. It returns a call, which takes options before it is awaited. `new`, `builder` and `in_process` create a client |
/// | `struct UserDirectoryServer<T>` | serves an implementation. Pass it to `Server::serve` |
///
/// All three have the visibility of the trait.
///
/// # Options of the service
///
/// | option | default | what it does |
/// |---|---|---|
/// | `queue = "name"` | the name of the trait | the queue that requests are sent to |
/// | `crate = path::to::rpc_runtime` | `::rpc_runtime` | the path of the runtime, for crates that rename or re-export it |
/// | `schema` | off | adds JSON Schemas of arguments, items, results and errors to the service's description. The types have to be `schemars::JsonSchema`. Needs the cargo feature `schema` of rpc-runtime |
///
/// # Streams
///
/// A method `fn f(&self, ..) -> impl Stream<Item = T>` replies with a stream of items, which the
/// client's method returns too. A parameter of the type `Incoming<T>` is a stream that the caller
/// sends; the client's method takes any `Stream<Item = T> + Send + 'static` in its place. Such
/// methods may be `idempotent` and have a `timeout` and a `name`.
///
/// # Options of a method
///
/// Options are in one or more `#[rpc(..)]` attributes.
///
/// | option | what it does |
/// |---|---|
/// | `default` | the method for requests without a method name. At most one |
/// | `idempotent` | running it twice has the effect of running it once, so it may run again after a crash or a lost connection. Unless it is `oneway`, the worker drops its future once its caller no longer waits |
/// | `cancel` | once its caller no longer waits, the worker drops the method's future, at an `.await`. `idempotent` methods and those with a stream do not need it |
/// | `oneway` | there is no reply: a call ends when the broker has confirmed the request. Without `idempotent` the method runs at most once and returns nothing: if its worker dies, the request is rejected, and only a dead-letter queue keeps it. With `idempotent` it is a job: it is completed at least once or goes to the dead-letter queue with the reason, and it may return `Result<(), E>` |
/// | `broadcast` | all workers of the queue run it. The client's method returns a broadcast, which gathers their answers; with `oneway`, there are none. It cannot be `idempotent`, `default`, `cancel` or retried |
/// | `retry = "5 times, 1s to 5m"` | how often workers retry a job that failed, and after how long |
/// | `timeout = "2s"` | the default time limit of a call: numbers with units, such as `500ms`, `2s`, `1m 30s` or `1h` |
/// | `name = "wire.name"` | the method's name on the wire. The default is its name in the trait. Names that begin with `rpc.` are reserved for the runtime |
///
/// # Options of a parameter
///
/// `#[rpc(resume)]` marks the argument that is the item after which an `idempotent` stream begins.
/// It is an `Option<T>`, for items of type `T` or `Result<T, E>`. If the stream is interrupted, the
/// client calls the method again with the last item.
///
/// `#[rpc(context)]` marks the parameter that the worker provides: the deadline, headers and the
/// caller. At most one parameter has it. Its type is a reference, as in `cx: &Context`, and the
/// client's method does not have it.
///
/// # Arguments and results
///
/// An argument is owned or borrowed at its outermost level. `&str`, `&[u8]`, `&[T]` and `&T` are
/// sent without a clone, and the implementation borrows them from the worker. An argument may have
/// most `#[serde(..)]` attributes of a struct's field: `#[serde(default)]` lets you add a parameter
/// to one side before the other. A method's result is owned. A return type named `Result` is the
/// method's own success or error. A method with any other type fails only if the call does. A
/// `Result` under another name is refused, unless it mentions a parameter of the trait.
///
/// # More
///
/// Methods may have default bodies, and the trait may have supertraits and parameters.
/// `docs/service-trait.md` in the repository has an example of each.
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
