//! A service as the parser read it.
//!
//! The parser makes these values. It returns a [`Service`] only if it found no error, so expansion
//! cannot fail. Otherwise it returns a [`Refusal`] with what it could read.

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
    /// All errors, combined.
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
    /// What could be read. It has every method of the trait, in their order.
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
    pub(crate) queue: LitStr,
    /// The option that asks for JSON Schemas.
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
    /// The name without `r#`, for descriptions.
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
    /// What a call returns, or the items if the method returns a stream.
    pub(crate) output: Type,
    /// The return type as the user wrote it, if it is a stream.
    pub(crate) stream: Option<TypeImplTrait>,
    /// Whether the output, or the type of the items, is named `Result`.
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

    /// What the client's method returns a call for.
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

    /// The parameters that are sent.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.parameters.iter().filter_map(|parameter| match parameter {
            Parameter::Context { .. } | Parameter::Incoming { .. } => None,
            Parameter::Argument(argument) => Some(argument),
        })
    }

    /// The parameter whose items the client sends, and the type of an item.
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
    /// The error type, or `None` if the method cannot fail.
    pub(crate) error: Option<String>,
}

/// Whether a method's request has a reply, whether it may run twice, and who runs it.
#[derive(Clone)]
pub(crate) enum Kind {
    /// It has a reply and runs at most once.
    Call,
    /// It has a reply and may run again until the reply arrives.
    IdempotentCall,
    /// It has no reply and runs at most once.
    OneWay,
    /// A job: it has no reply, and may run again until it succeeds or its retries are used up.
    IdempotentOneWay,
    /// All workers run it at most once and reply.
    Broadcast,
    /// All workers run it at most once. It has no reply.
    OneWayBroadcast,
    /// It replies with a stream, and runs at most once.
    Stream,
    /// It replies with a stream, and may run again until the first item arrives.
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
    /// The delay before the last retry.
    pub(crate) max: Duration,
}

/// One parameter of a method, after `&self`.
#[derive(Clone)]
pub(crate) enum Parameter {
    /// Provided by the worker. The client's method does not have it.
    Context { name: Ident, ty: Type },
    /// Sent by the client.
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

/// A parameter that is sent.
#[derive(Clone)]
pub(crate) struct Argument {
    pub(crate) name: Ident,
    /// The type as the user wrote it.
    pub(crate) ty: Type,
    pub(crate) shape: Shape,
    /// Whether a caller may leave it out.
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
    /// Whether the client may leave the argument out.
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
    /// `&T`, with its `T`.
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
