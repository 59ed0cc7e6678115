//! A service as the parser read it.
//!
//! The parser makes these values. It returns a [`Service`] only if it found no error, so expansion
//! returns none. Otherwise it returns a [`Refusal`] with what it could read.

use std::time::Duration;

use proc_macro2::{Group, TokenStream};
use quote::format_ident;
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Generics, Ident, LitStr, Path, Receiver, Token, Type, TypeImplTrait, TypeParamBound,
    Visibility, parse_quote,
};

use crate::attributes::Attributes;
use crate::syntax::ServiceTrait;

/// An item that was refused, and why.
pub(crate) struct Refusal {
    /// All errors, combined. Only the first one of an item that cannot be parsed.
    pub(crate) reasons: syn::Error,
    pub(crate) item: RefusedItem,
}

pub(crate) enum RefusedItem {
    Trait(Box<RefusedTrait>),
    /// An item that is no trait, or that cannot be parsed.
    Other(TokenStream),
}

/// A trait with errors.
pub(crate) struct RefusedTrait {
    pub(crate) syntax: Box<ServiceTrait>,
    /// What could be read. It has every method of the trait, in the trait's order.
    pub(crate) service: Service,
}

const FUNCTIONS_OF_CLIENT: [&str; 3] = ["new", "builder", "in_process"];

/// Whether the client has a function of this name, besides those for the service's methods.
pub(crate) fn is_function_of_client(name: &Ident) -> bool {
    FUNCTIONS_OF_CLIENT.iter().any(|function| name == function)
}

pub(crate) struct Service {
    /// The path of the runtime crate.
    pub(crate) runtime: Path,
    /// The name of the request queue.
    pub(crate) queue: LitStr,
    /// The option that asks for JSON Schemas, if it was given.
    pub(crate) schema: Option<Ident>,
    pub(crate) attributes: Attributes,
    pub(crate) visibility: Visibility,
    pub(crate) name: Ident,
    /// The trait's parameters with their bounds. Only a refused trait has lifetimes among them.
    pub(crate) generics: Generics,
    /// Without those that the macro adds.
    pub(crate) supertraits: Punctuated<TypeParamBound, Token![+]>,
    pub(crate) methods: Vec<Method>,
}

impl Service {
    /// The name without `r#`, for text such as descriptions and docs.
    pub(crate) fn unraw_name(&self) -> String {
        self.name.unraw().to_string()
    }

    pub(crate) fn client_name(&self) -> Ident {
        format_ident!("{}Client", self.name)
    }

    pub(crate) fn server_name(&self) -> Ident {
        format_ident!("{}Server", self.name)
    }
}

#[derive(Clone)]
pub(crate) struct Method {
    pub(crate) attributes: Attributes,
    pub(crate) name: Ident,
    pub(crate) wire_name: LitStr,
    pub(crate) is_default: bool,
    pub(crate) kind: Kind,
    /// Whether it has the option `cancel`.
    pub(crate) is_cancellable: bool,
    pub(crate) retry: Option<Retry>,
    pub(crate) timeout: Option<Duration>,
    /// `&self` as the user wrote it: because of hygiene, `self` in a body refers only to that
    /// token.
    pub(crate) receiver: Receiver,
    pub(crate) parameters: Vec<Parameter>,
    /// The type that the method returns, or that of the items if it returns a stream.
    pub(crate) output: Type,
    /// The return type as the user wrote it, if it is a stream.
    pub(crate) stream: Option<TypeImplTrait>,
    /// Whether the output is named `Result`.
    pub(crate) is_fallible: bool,
    /// The output as text, for descriptions.
    pub(crate) returns: ReturnTypes,
    /// The default body.
    pub(crate) body: Option<Group>,
}

impl Method {
    pub(crate) fn has_reply(&self) -> bool {
        !matches!(
            self.kind,
            Kind::OneWay | Kind::IdempotentOneWay | Kind::OneWayBroadcast
        )
    }

    /// The answers that a call gets. [`Answers::One`] for every one-way method, also a broadcast.
    pub(crate) fn answers(&self) -> Answers {
        match self.kind {
            Kind::Broadcast => Answers::OfEachWorker,
            Kind::Stream | Kind::IdempotentStream => Answers::Stream,
            _ => Answers::One,
        }
    }

    /// The type of one answer: the result of a call or of one worker, or an item of a stream. It is
    /// `()` if there is no reply, also for a job, whose error does not reach its caller.
    pub(crate) fn answer_type(&self) -> Type {
        if self.has_reply() {
            self.output.clone()
        } else {
            parse_quote!(())
        }
    }

    /// The parameters that are sent in the request.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.parameters.iter().filter_map(|parameter| match parameter {
            Parameter::Context { .. } | Parameter::Incoming { .. } => None,
            Parameter::Argument(argument) => Some(argument),
        })
    }

    /// The name of the parameter whose items the client sends, and the type of an item.
    pub(crate) fn incoming(&self) -> Option<(&Ident, &Type)> {
        self.parameters.iter().find_map(|parameter| match parameter {
            Parameter::Incoming { name, item, .. } => Some((name, &**item)),
            Parameter::Context { .. } | Parameter::Argument(_) => None,
        })
    }

    /// The argument that gets the last item of a stream that was interrupted.
    pub(crate) fn resumed_by(&self) -> Option<&Argument> {
        self.arguments().find(|argument| argument.resume.is_some())
    }

    /// Whether serde derives how the arguments are written and read, because an argument has
    /// `#[serde(..)]` attributes.
    pub(crate) fn has_derived_arguments(&self) -> bool {
        self.arguments()
            .any(|argument| !argument.serde.attributes.is_empty())
    }
}

/// A method's output as text, for descriptions.
#[derive(Clone)]
pub(crate) struct ReturnTypes {
    /// The type of a successful result.
    pub(crate) success: String,
    /// The error type, or `None` if the output is no `Result`.
    pub(crate) error: Option<String>,
}

/// Whether a method has a reply, whether it may run more than once, and who runs it.
#[derive(Clone)]
pub(crate) enum Kind {
    /// It has a reply and runs at most once.
    Call,
    /// It has a reply and may run more than once.
    IdempotentCall,
    /// It has no reply and runs at most once.
    OneWay,
    /// A job: it has no reply, and may run again until it succeeds or its retries are used up.
    IdempotentOneWay,
    /// Each worker of the queue runs it at most once and replies.
    Broadcast,
    /// Each worker of the queue runs it at most once. It has no reply.
    OneWayBroadcast,
    /// It replies with a stream, and runs at most once.
    Stream,
    /// It replies with a stream, and may run again until the worker's first message arrives. With
    /// the option `resume`, it also runs again if the stream is interrupted.
    IdempotentStream,
}

/// The answers to a call.
pub(crate) enum Answers {
    /// One result, or none.
    One,
    /// Those of all workers, which a broadcast gathers.
    OfEachWorker,
    /// The items of a stream.
    Stream,
}

/// How often a job is retried, and after how long.
#[derive(Clone)]
pub(crate) struct Retry {
    pub(crate) times: u16,
    /// The delay before the first retry.
    pub(crate) min: Duration,
    /// The delay before the last retry, if there are several.
    pub(crate) max: Duration,
}

/// One parameter of a method, after `&self`.
#[derive(Clone)]
pub(crate) enum Parameter {
    /// Provided by the worker. The client's method does not have it.
    Context { name: Ident, ty: Type },
    /// Sent in the request.
    Argument(Argument),
    /// A stream that the client sends while the method runs. `item` is the type of an item.
    Incoming { name: Ident, ty: Type, item: Box<Type> },
}

impl Parameter {
    pub(crate) fn is_context(&self) -> bool {
        matches!(self, Self::Context { .. })
    }

    pub(crate) fn is_incoming(&self) -> bool {
        matches!(self, Self::Incoming { .. })
    }

    pub(crate) fn name(&self) -> &Ident {
        match self {
            Self::Context { name, .. }
            | Self::Argument(Argument { name, .. })
            | Self::Incoming { name, .. } => name,
        }
    }

    /// The type as the user wrote it.
    pub(crate) fn ty(&self) -> &Type {
        match self {
            Self::Context { ty, .. } | Self::Argument(Argument { ty, .. }) | Self::Incoming { ty, .. } => ty,
        }
    }
}

/// A parameter that is sent in the request.
#[derive(Clone)]
pub(crate) struct Argument {
    pub(crate) name: Ident,
    /// The type as the user wrote it.
    pub(crate) ty: Type,
    pub(crate) shape: Shape,
    /// Whether the worker accepts a request without it.
    pub(crate) is_optional: bool,
    pub(crate) wire_name: LitStr,
    pub(crate) serde: Serde,
    /// The option `resume`, if the argument gets the last item of a stream that was interrupted.
    pub(crate) resume: Option<Ident>,
}

/// The `#[serde(..)]` attributes of an argument.
#[derive(Clone, Default)]
pub(crate) struct Serde {
    pub(crate) attributes: Vec<Attribute>,
    /// Whether they name a function of the user that writes the value.
    pub(crate) has_writer: bool,
    /// Whether they name a function of the user that reads the value.
    pub(crate) has_reader: bool,
    /// Whether they give a default for a missing value.
    pub(crate) has_default: bool,
    /// Whether `skip_serializing_if` lets the client leave the argument out.
    pub(crate) may_be_left_out: bool,
    /// Other names under which the value is read.
    pub(crate) aliases: Vec<LitStr>,
}

/// The kind of an argument's type. It decides how the argument is encoded, decoded and passed to
/// the implementation.
#[derive(Clone)]
pub(crate) enum Shape {
    /// `&str`
    Str,
    /// `&[u8]`
    Bytes,
    /// `&[T]`, with its `T`.
    Slice(Box<Type>),
    /// Any other `&T`, with its `T`.
    Reference(Box<Type>),
    /// `Cow<str>`. With the lifetime `'static` it is `Owned`, because it cannot borrow from the
    /// request.
    CowStr,
    /// `Cow<[u8]>`. With the lifetime `'static` it cannot borrow from the request, but still has to
    /// be encoded as bytes.
    CowBytes { is_static: bool },
    /// `Vec<u8>`
    ByteVec,
    /// Any other type.
    Owned,
}
