//! Reads a method.

use syn::ext::IdentExt;
use syn::{
    FnArg, Ident, LitStr, Receiver, ReceiverKind, ReturnType, Safety, Signature, Type, TypeImplTrait,
    parse_quote,
};

use super::errors::Errors;
use super::options::{self, Options};
use super::placement::refuse_conditional_options;
use super::{parameter, types, values};
use crate::attributes::{Attributes, is_rpc};
use crate::model::{Kind, Method, Parameter, Retry, ReturnTypes, is_function_of_client};
use crate::spelling;
use crate::syntax::TraitMethod;

/// Methods of prelude traits that all types have and that take `self`. The compiler prefers them to
/// the client's own methods, which take `&self`.
const SHADOWING: [(&str, &str); 2] = [("into", "Into"), ("try_into", "TryInto")];

/// Reads a method. `earlier` are the trait's methods before it.
pub(super) fn read(item: &TraitMethod, earlier: &[Method], errors: &mut Errors) -> Method {
    let options = Options::of_rpc(&item.attributes, &options::METHOD, errors);
    let attributes = Attributes::new(&item.attributes);
    // The earlier methods that cannot share a wire name, or the option `default`, with this one.
    let siblings: Vec<_> = earlier
        .iter()
        .filter(|other| !other.attributes.may_be_alternatives(&attributes))
        .collect();

    refuse_conditional_options(&item.attributes, "method", errors);
    let stream = stream_of(&item.signature.output);
    refuse_syntax(item, stream, errors);
    refuse_unusable_name(&item.signature.ident, errors);
    let output = read_output(&item.signature.output, errors);
    let wire_name = read_wire_name(&options, &item.signature.ident, &siblings, errors);
    let is_default = read_default(&options, &siblings, errors);
    let kind = match stream {
        Some(_) => read_kind_of_stream(&options, errors),
        None => read_kind(&options, &output, errors),
    };
    // For a stream, `read_kind_of_stream` has refused `broadcast` itself.
    if stream.is_none() {
        refuse_broadcast_options(&options, errors);
    }
    let receiver = read_receiver(&item.signature, stream.is_some(), errors);
    let parameters = read_parameters(&item.signature, errors);
    let has_incoming = parameters.iter().any(Parameter::is_incoming);
    if has_incoming {
        refuse_incoming_options(&options, stream.is_some(), errors);
    }
    refuse_unresumable(&kind, &output, &parameters, errors);
    // With `has_incoming`, `cancel` has been refused.
    let is_cancellable = !has_incoming && read_cancel(&options, &kind, errors);
    let retry = read_retry(&options, &kind, has_incoming, errors);
    let timeout = options
        .text("timeout", errors)
        .and_then(|text| errors.keep(values::timeout(text)));
    Method {
        attributes,
        name: item.signature.ident.clone(),
        wire_name,
        is_default,
        kind,
        is_cancellable,
        retry,
        timeout,
        receiver,
        parameters,
        is_fallible: types::is_result(&output),
        returns: return_types(&output),
        output,
        stream: stream.cloned(),
        body: item.body.clone(),
    }
}

/// Refuses modifiers, generics and variadic arguments, which have no meaning for a service.
/// Requires `async`, or refuses it if the method returns a stream.
fn refuse_syntax(item: &TraitMethod, stream: Option<&TypeImplTrait>, errors: &mut Errors) {
    let Signature {
        constness,
        asyncness,
        safety,
        abi,
        fn_token,
        ident,
        generics,
        variadic,
        ..
    } = &item.signature;
    if let Some(constness) = constness {
        errors.push(constness, "a service method cannot be const; remove `const`");
    }
    if let Safety::Unsafe(unsafety) = safety {
        errors.push(unsafety, "a service method cannot be unsafe; remove `unsafe`");
    }
    if let Some(abi) = abi {
        errors.push(abi, "a service method cannot be extern; remove the ABI");
    }
    match (asyncness, stream) {
        (None, None) => errors.push(
            fn_token,
            format!("service methods are async; write `async fn {ident}`"),
        ),
        (Some(asyncness), Some(_)) => errors.push(
            asyncness,
            format!("a method that returns a stream is not async; write `fn {ident}`"),
        ),
        (Some(_), None) | (None, Some(_)) => {}
    }
    if !generics.params.is_empty() {
        errors.push(
            &generics.params,
            "service methods cannot be generic; use concrete types, or write one method for each type",
        );
    }
    if let Some(clause) = &generics.where_clause {
        errors.push(
            clause,
            "service methods cannot have a `where` clause; use concrete types instead",
        );
    }
    if let Some(variadic) = variadic {
        errors.push(
            variadic,
            "service methods cannot be variadic; take a slice, such as `&[String]`",
        );
    }
}

fn refuse_unusable_name(name: &Ident, errors: &mut Errors) {
    let plain = name.unraw();
    let reason = if is_function_of_client(&plain) {
        format!("the client has its own function `{plain}`")
    } else if let Some((_, prelude_trait)) = SHADOWING.iter().find(|(method, _)| plain == method) {
        format!("on the client, `{plain}` would be that of `{prelude_trait}`, which every type has")
    } else {
        return;
    };
    let advice = "choose another name and keep this one on the wire with";
    errors.push(name, format!("{reason}; {advice} `#[rpc(name = \"{plain}\")]`"));
}

/// The return type if it is a stream.
fn stream_of(output: &ReturnType) -> Option<&TypeImplTrait> {
    match output {
        ReturnType::Default => None,
        ReturnType::Type(_, ty) => types::stream(ty),
    }
}

/// Reads the type that a method returns, `()` if it has none, or that of the items of a stream.
fn read_output(output: &ReturnType, errors: &mut Errors) -> Type {
    let ReturnType::Type(_, ty) = output else {
        return parse_quote!(());
    };
    let output = match types::stream(ty) {
        Some(stream) => types::stream_item(stream),
        None => Some(&**ty),
    };
    let Some(output) = output else {
        let advice = "the items of a stream need a type; write `impl Stream<Item = T>`";
        errors.push(ty, advice);
        return parse_quote!(());
    };
    types::check_output(output, errors);
    output.clone()
}

/// The output as text. An alias such as `io::Result<T>` does not show both types of the `Result`,
/// so they are written as its associated types.
fn return_types(output: &Type) -> ReturnTypes {
    let text = spelling::of(output);
    if !types::is_result(output) {
        let (success, error) = (text, None);
        return ReturnTypes { success, error };
    }
    let (success, error) = match types::success_and_error(output) {
        Some((success, error)) => (spelling::of(success), spelling::of(error)),
        None => (format!("{text}::Ok"), format!("{text}::Err")),
    };
    ReturnTypes {
        success,
        error: Some(error),
    }
}

fn read_wire_name(options: &Options, name: &Ident, siblings: &[&Method], errors: &mut Errors) -> LitStr {
    let wire_name = match options.text("name", errors) {
        Some(wire_name) => wire_name.clone(),
        None => LitStr::new(&name.unraw().to_string(), name.span()),
    };
    if let Some(message) = values::wire_name_refusal(&wire_name.value()) {
        errors.push(&wire_name, message);
    }
    if let Some(other) = siblings
        .iter()
        .find(|other| other.wire_name.value() == wire_name.value())
    {
        let (taken, other) = (wire_name.value(), &other.name);
        let message = format!(
            "`{other}` already has the wire name `{taken}`; give this method another with `#[rpc(name = \"..\")]`"
        );
        errors.push(&wire_name, message);
    }
    wire_name
}

fn read_default(options: &Options, siblings: &[&Method], errors: &mut Errors) -> bool {
    let default = options.flag("default", errors);
    if let Some(default) = default
        && let Some(other) = siblings.iter().find(|other| other.is_default)
    {
        errors.push(
            default,
            format!(
                "`{}` is the default method already; remove `default` from one",
                other.name
            ),
        );
    }
    default.is_some()
}

/// Reads the kind of a method that returns no stream, and refuses an output that a one-way method
/// cannot have. [`refuse_broadcast_options`] refuses what a broadcast cannot be.
fn read_kind(options: &Options, output: &Type, errors: &mut Errors) -> Kind {
    let is_idempotent = options.flag("idempotent", errors).is_some();
    let is_oneway = options.flag("oneway", errors).is_some();
    let is_broadcast = options.flag("broadcast", errors).is_some();
    if is_oneway && let Some(message) = oneway_output_refusal(output, is_idempotent, is_broadcast) {
        errors.push(output, message);
    }
    match (is_oneway, is_broadcast, is_idempotent) {
        (true, true, _) => Kind::OneWayBroadcast,
        (false, true, _) => Kind::Broadcast,
        (true, false, true) => Kind::IdempotentOneWay,
        (true, false, false) => Kind::OneWay,
        (false, false, true) => Kind::IdempotentCall,
        (false, false, false) => Kind::Call,
    }
}

/// Why a one-way method cannot have this output, or `None` if it can.
fn oneway_output_refusal(output: &Type, is_idempotent: bool, is_broadcast: bool) -> Option<&'static str> {
    if types::is_unit(output) {
        None
    } else if !types::is_result(output) {
        Some("a one-way method has no reply; remove its return type, or `oneway`")
    } else if is_idempotent {
        let message = "a one-way method has no reply; return `Result<(), E>`";
        (!types::may_be_result_of_unit(output)).then_some(message)
    } else if is_broadcast {
        Some("nobody would see the error of a one-way broadcast; remove the return type, or `oneway`")
    } else {
        Some(
            "nobody would see the error of a one-way method that runs at most once; add `idempotent` to make it a job, which is kept if it fails, or remove the return type",
        )
    }
}

/// Reads the kind of a method that returns a stream, and refuses options that it cannot have,
/// except `retry` and `cancel`, which [`read_retry`] and [`read_cancel`] refuse.
fn read_kind_of_stream(options: &Options, errors: &mut Errors) -> Kind {
    // Refuses their values, as `read_default` has done for `default`.
    for flag in ["oneway", "broadcast"] {
        options.flag(flag, errors);
    }
    let refused = [
        (
            "oneway",
            "a stream is a reply, and a one-way method has none; remove `oneway`",
        ),
        ("broadcast", "one worker sends a stream; remove `broadcast`"),
        (
            "default",
            "a request without a method expects one result; remove `default`",
        ),
    ];
    refuse_given(options, &refused, errors);
    match options.flag("idempotent", errors) {
        Some(_) => Kind::IdempotentStream,
        None => Kind::Stream,
    }
}

/// Refuses `idempotent` and `default` for a broadcast. [`read_retry`] and [`read_cancel`] refuse
/// `retry` and `cancel`.
fn refuse_broadcast_options(options: &Options, errors: &mut Errors) {
    if options.given("broadcast").is_none() {
        return;
    }
    let refused = [
        (
            "idempotent",
            "a broadcast is sent once, and no worker runs it twice; remove `idempotent`",
        ),
        (
            "default",
            "a request without a method goes to one worker, so the default method cannot be a broadcast; remove one",
        ),
    ];
    refuse_given(options, &refused, errors);
}

/// Refuses options of a method whose caller sends a stream. [`read_retry`] refuses `retry`, and
/// [`read_kind_of_stream`] the others but `cancel` if the method `returns_stream` too.
fn refuse_incoming_options(options: &Options, returns_stream: bool, errors: &mut Errors) {
    if !returns_stream {
        let refused = [
            (
                "oneway",
                "a caller that sends a stream waits for the reply; remove `oneway`",
            ),
            ("broadcast", "one worker receives a stream; remove `broadcast`"),
            (
                "default",
                "a request without a method sends no stream; remove `default`",
            ),
        ];
        refuse_given(options, &refused, errors);
    }
    let message = "a method that receives a stream always ends with its call; remove `cancel`";
    refuse_given(options, &[("cancel", message)], errors);
}

/// Refuses each of these options that is given, with its message.
fn refuse_given(options: &Options, refused: &[(&str, &str)], errors: &mut Errors) {
    for (option, message) in refused {
        if let Some(name) = options.given(option) {
            errors.push(name, message);
        }
    }
}

/// Refuses `resume` on an argument of a method that cannot be called again for the rest of its
/// items. The argument is `None` at the beginning of a stream, so no item may be encoded like
/// `None`, as `Some(None)` and `Some(())` are.
fn refuse_unresumable(kind: &Kind, output: &Type, parameters: &[Parameter], errors: &mut Errors) {
    let item = types::success_and_error(output).map_or(output, |(success, _)| success);
    let message = match kind {
        Kind::IdempotentStream if parameters.iter().any(Parameter::is_incoming) => {
            "the caller's stream cannot be sent again; remove `resume`"
        }
        Kind::IdempotentStream if types::is_option(item) || types::is_unit(item) => {
            "an empty item would begin the stream anew; return another type of items, or remove `resume`"
        }
        Kind::IdempotentStream => return,
        Kind::Stream => "a stream is resumed by calling its method again; add `#[rpc(idempotent)]`",
        _ => "only a stream is resumed; return `impl Stream<Item = T>`, or remove `resume`",
    };
    let mut resumes = parameters.iter().filter_map(|parameter| match parameter {
        Parameter::Argument(argument) => argument.resume.as_ref(),
        Parameter::Context { .. } | Parameter::Incoming { .. } => None,
    });
    if let Some(resume) = resumes.next() {
        errors.push(resume, message);
    }
}

/// Reads `cancel`, and refuses it where it has no effect.
fn read_cancel(options: &Options, kind: &Kind, errors: &mut Errors) -> bool {
    let Some(cancel) = options.flag("cancel", errors) else {
        return false;
    };
    let message = match kind {
        Kind::Call => return true,
        Kind::IdempotentCall => "`idempotent` methods are always cancelled with their calls; remove `cancel`",
        Kind::OneWay | Kind::IdempotentOneWay => "nobody waits for a one-way method; remove `cancel`",
        Kind::Broadcast | Kind::OneWayBroadcast => "a broadcast is not cancelled; remove `cancel`",
        Kind::Stream | Kind::IdempotentStream => "a stream always ends with its call; remove `cancel`",
    };
    errors.push(cancel, message);
    false
}

fn read_retry(options: &Options, kind: &Kind, has_incoming: bool, errors: &mut Errors) -> Option<Retry> {
    let text = options.text("retry", errors)?;
    if matches!(kind, Kind::Broadcast | Kind::OneWayBroadcast) {
        errors.push(text, "no worker retries a broadcast; remove `retry`");
    } else if has_incoming || matches!(kind, Kind::Stream | Kind::IdempotentStream) {
        errors.push(text, "no worker retries a stream; remove `retry`");
    } else if !matches!(kind, Kind::IdempotentOneWay) {
        errors.push(
            text,
            "only jobs are retried by workers; add `oneway, idempotent`, or let the caller repeat the call",
        );
    }
    errors.keep(values::retry(text))
}

fn read_parameters(signature: &Signature, errors: &mut Errors) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    for input in &signature.inputs {
        if let FnArg::Typed(input) = input {
            parameters.push(parameter::read(input, &parameters, errors));
        }
    }
    parameters
}

fn read_receiver(signature: &Signature, returns_stream: bool, errors: &mut Errors) -> Receiver {
    let Some(receiver) = signature.receiver() else {
        let name = &signature.ident;
        let keywords = if returns_stream { "fn" } else { "async fn" };
        errors.push(
            name,
            format!("service methods take `&self`; write `{keywords} {name}(&self, ..)`"),
        );
        return parse_quote!(&self);
    };
    refuse_receiver(receiver, errors);
    receiver.clone()
}

fn refuse_receiver(receiver: &Receiver, errors: &mut Errors) {
    for attribute in &receiver.attrs {
        let message = if is_rpc(attribute) {
            "`&self` takes no options; remove `#[rpc]`"
        } else {
            "`&self` takes no attributes; remove this one"
        };
        errors.push(attribute, message);
    }
    if let Some(message) = receiver_refusal(&receiver.kind) {
        errors.push(receiver, message);
    }
}

/// Why a method cannot have this receiver, or `None` if it is `&self`.
fn receiver_refusal(kind: &ReceiverKind) -> Option<&'static str> {
    let (lifetime, mutability) = match kind {
        ReceiverKind::Reference(_, None, None) => return None,
        ReceiverKind::Reference(_, lifetime, mutability) => (lifetime, mutability),
        ReceiverKind::Typed(_, ty) => match types::reference_to_self(ty) {
            Some(reference) => (&reference.lifetime, &reference.mutability),
            None => return Some("calls borrow the service; write `&self`"),
        },
        _ => return Some("a service outlives each call; write `&self`"),
    };
    if mutability.is_some() {
        return Some(
            "calls share the service, so none has exclusive access; write `&self`, and put what changes behind a lock",
        );
    }
    Some(match lifetime {
        Some(_) => "lifetimes have no meaning across the network; write `&self`",
        None => "this is the long form of `&self`; write `&self`",
    })
}
