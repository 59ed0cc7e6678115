//! What a document is made of, beside the service.

use super::server::Server;

/// The program whose operations a document describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum View {
    /// A program that calls the service: it sends requests, and gets the replies.
    Caller,
    /// A program that serves it: it receives requests, and replies. The default.
    #[default]
    Worker,
}

/// A version of AsyncAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AsyncApi {
    /// The default, which most tools read.
    #[default]
    V3_0,
    /// A document of this crate differs from one of 3.0 only in its version number.
    V3_1,
}

/// Makes AsyncAPI documents of services.
///
/// Each method is an operation with a request, and a reply unless it is one-way. The items that its
/// caller sends are another operation. Bodies are described by the description's JSON Schemas. If
/// it has none, types of the standard library are known by their spelling in Rust. A value of any
/// other type without a schema may be anything.
///
/// Messages and types have unique names, from which generators make names of classes:
/// `GetEmailRequest`, `GetEmailResult` and `GetEmailError` for the method `get_email`, and `Fault`.
/// A body has the name of its type, or that of its message if the type has none. A name that is
/// taken gets a number.
///
/// AMQP's properties `correlation_id` and `reply_to` are described as headers with these names,
/// because a document has no other place for them. The property `type` is the `messageType` of a
/// message's binding.
///
/// The same description and options always give the same document. References that lead out of the
/// description, malformed keywords and fields with the name `__proto__` are left out. Names that
/// cannot be keys are changed. So the document is valid for any description that a peer sends.
///
/// ```
/// use rpc_contract::asyncapi::{AsyncApi, Options, Server, View};
/// use rpc_contract::{MethodDescription, ServiceDescription};
///
/// let mut service = ServiceDescription::new("Directory", "users");
/// service.methods.push(MethodDescription::new("get_email"));
///
/// let options = Options::new("1.0.0").view(View::Caller).version(AsyncApi::V3_1);
/// let document = options.server("amqp://broker/sales".parse()?).document(&service);
/// assert_eq!(document["asyncapi"], "3.1.0");
/// assert_eq!(document["servers"]["broker"]["pathname"], "/sales");
/// assert_eq!(document["operations"]["get_email"]["action"], "send");
/// # Ok::<_, rpc_contract::asyncapi::InvalidServer>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "options do nothing until they make a document"]
pub struct Options {
    pub(super) api_version: String,
    pub(super) view: View,
    pub(super) version: AsyncApi,
    pub(super) server: Option<Server>,
}

impl Options {
    /// Makes documents of this version of the service's interface, such as `1.0.0`.
    pub fn new(api_version: impl Into<String>) -> Self {
        Self {
            api_version: api_version.into(),
            view: View::default(),
            version: AsyncApi::default(),
            server: None,
        }
    }

    /// Sets whose operations the document describes.
    pub fn view(self, view: View) -> Self {
        Self { view, ..self }
    }

    /// Sets the version of AsyncAPI.
    pub fn version(self, version: AsyncApi) -> Self {
        Self { version, ..self }
    }

    /// Sets the broker. Without one, a document has no `servers`, and names no virtual host.
    pub fn server(self, server: Server) -> Self {
        Self {
            server: Some(server),
            ..self
        }
    }
}
