//! Reads and checks the types in a method's signature.
//!
//! A macro sees only names: any type named `Option` counts as an `Option`.

use syn::visit_mut::{self, VisitMut};
use syn::{
    GenericArgument, Ident, Lifetime, Path, PathArguments, Type, TypeImplTrait, TypeParamBound, TypePath,
    TypeReference, TypeTraitObject, parse_quote,
};

use super::errors::Errors;
use crate::model::Shape;
use crate::spelling;
use crate::syntax::{bare_type, begins_with_self, ends_with, is_never};

/// Reads an argument's type: an owned type, or a reference to one, to `str` or to a slice.
pub(super) fn argument_shape(ty: &Type, errors: &mut Errors) -> Shape {
    let Type::Reference(reference) = bare_type(ty) else {
        refuse_undecodable(ty, TypePosition::Argument("take"), errors);
        return owned_shape(ty);
    };
    refuse_mut_and_lifetime(reference, errors);
    match bare_type(&reference.elem) {
        Type::Path(path) if path.path.is_ident("str") => Shape::Str,
        Type::Slice(slice) if is_u8(&slice.elem) => Shape::Bytes,
        Type::Slice(slice) => {
            refuse_undecodable(&slice.elem, TypePosition::Argument("take a slice of"), errors);
            Shape::Slice(slice.elem.clone())
        }
        referent => {
            refuse_undecodable(referent, TypePosition::Argument("take a reference to"), errors);
            Shape::Reference(reference.elem.clone())
        }
    }
}

/// Checks that the context's type is a shared reference without a named lifetime.
pub(super) fn check_context_type(ty: &Type, errors: &mut Errors) {
    match bare_type(ty) {
        Type::Reference(reference) => refuse_mut_and_lifetime(reference, errors),
        _ => errors.push(
            ty,
            "the context is lent to the method; take a reference, such as `&Context`",
        ),
    }
}

/// Checks the type that a method returns, or that of the items of its stream: it is owned, is not
/// `!`, and contains no `Incoming<T>`.
pub(super) fn check_output(ty: &Type, errors: &mut Errors) {
    if is_never(ty) {
        errors.push(
            ty,
            "a method that never returns sends no reply; remove the return type, or return a value",
        );
    }
    let advice = "a method sends a stream with `impl Stream<Item = T>`; only callers send an `Incoming<T>`";
    refuse_incoming_within(ty, advice, errors);
    refuse_undecodable(ty, TypePosition::Output, errors);
}

/// The `T` of an `Incoming<T>`, a stream that the caller sends. `None` for a type of another name.
/// Refuses a reference to an `Incoming`, and returns its `T` all the same. Refuses an `Incoming`
/// that is no [`GenericOfOne`], and returns `()`.
pub(super) fn incoming_item(ty: &Type, errors: &mut Errors) -> Option<Type> {
    let advice = "the method owns the stream that the caller sends; write `Incoming<T>`";
    let ty = match bare_type(ty) {
        Type::Reference(reference) if is_named(&reference.elem, INCOMING) => {
            errors.push(ty, advice);
            &*reference.elem
        }
        _ if is_named(ty, INCOMING) => ty,
        _ => return None,
    };
    match generic_of_one(ty) {
        Some(GenericOfOne { argument: item, .. }) => {
            refuse_undecodable(item, TypePosition::Item, errors);
            Some(item.clone())
        }
        None => {
            errors.push(
                ty,
                "a parameter of the type `Incoming` is a stream that the caller sends; write `Incoming<T>`, or rename your own type",
            );
            Some(parse_quote!(()))
        }
    }
}

/// Refuses a type that is or contains an `Incoming<T>`. The advice is the whole error message.
pub(super) fn refuse_incoming_within(ty: &Type, advice: &str, errors: &mut Errors) {
    struct Finder(Option<Path>);

    impl VisitMut for Finder {
        fn visit_path_mut(&mut self, path: &mut Path) {
            let is_incoming = path.segments.last().is_some_and(|segment| {
                segment.ident == INCOMING && matches!(segment.arguments, PathArguments::AngleBracketed(_))
            });
            if is_incoming {
                self.0.get_or_insert_with(|| path.clone());
            }
            visit_mut::visit_path_mut(self, path);
        }
    }

    let mut finder = Finder(None);
    finder.visit_type_mut(&mut ty.clone());
    if let Some(path) = finder.0 {
        errors.push(path, advice);
    }
}

const INCOMING: &str = "Incoming";

/// The `impl Trait` type if this type is one with a bound named `Stream`.
pub(super) fn stream(ty: &Type) -> Option<&TypeImplTrait> {
    let Type::ImplTrait(stream) = bare_type(ty) else {
        return None;
    };
    stream_path(stream).map(|_| stream)
}

/// The type of a stream's items. `None` for a `Stream` without `Item = T`.
pub(super) fn stream_item(stream: &TypeImplTrait) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = &stream_path(stream)?.segments.last()?.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(item) if item.ident == "Item" => Some(&item.ty),
        _ => None,
    })
}

/// The path of the first bound that is named `Stream`.
fn stream_path(stream: &TypeImplTrait) -> Option<&Path> {
    stream.bounds.iter().find_map(|bound| match bound {
        TypeParamBound::Trait(bound) if ends_with(&bound.path, "Stream") => Some(&bound.path),
        _ => None,
    })
}

/// Whether the type is named `Result`.
pub(super) fn is_result(ty: &Type) -> bool {
    is_named(ty, "Result")
}

/// Whether a type named `Result` may have the success type `()`. An alias may, and the compiler
/// checks it.
pub(super) fn may_be_result_of_unit(ty: &Type) -> bool {
    success_and_error(ty).is_none_or(|(success, _)| is_unit(success))
}

/// The `T` and the `E` of a `Result<T, E>`. `None` for any other type, and for an alias named
/// `Result` with other parameters.
pub(super) fn success_and_error(ty: &Type) -> Option<(&Type, &Type)> {
    let Type::Path(path) = bare_type(ty) else {
        return None;
    };
    if !is_result(ty) {
        return None;
    }
    let PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments else {
        return None;
    };
    let mut arguments = arguments.args.iter();
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(GenericArgument::Type(success)), Some(GenericArgument::Type(error)), None) => {
            Some((success, error))
        }
        _ => None,
    }
}

/// Whether the worker reads an argument of this type as an `Option`: the type is one, or a
/// reference to one.
pub(super) fn reads_as_option(ty: &Type) -> bool {
    match bare_type(ty) {
        Type::Reference(reference) => is_named(&reference.elem, "Option"),
        _ => is_option(ty),
    }
}

/// Whether the type is named `Option`.
pub(super) fn is_option(ty: &Type) -> bool {
    is_named(ty, "Option")
}

fn is_named(ty: &Type, name: &str) -> bool {
    matches!(bare_type(ty), Type::Path(TypePath { qself: None, path, .. }) if ends_with(path, name))
}

pub(super) fn is_unit(ty: &Type) -> bool {
    matches!(bare_type(ty), Type::Tuple(tuple) if tuple.elems.is_empty())
}

fn is_u8(ty: &Type) -> bool {
    matches!(bare_type(ty), Type::Path(path) if path.path.is_ident("u8"))
}

/// The shape of a type that is not a reference.
fn owned_shape(ty: &Type) -> Shape {
    let Some(GenericOfOne {
        name,
        is_static,
        argument,
    }) = generic_of_one(ty)
    else {
        return Shape::Owned;
    };
    match bare_type(argument) {
        element if name == "Vec" && is_u8(element) => Shape::ByteVec,
        Type::Path(path) if name == "Cow" && path.path.is_ident("str") && !is_static => Shape::CowStr,
        Type::Slice(slice) if name == "Cow" && is_u8(&slice.elem) => Shape::CowBytes { is_static },
        _ => Shape::Owned,
    }
}

/// A type with one type argument, such as `Vec<T>` or `Cow<'_, T>`.
struct GenericOfOne<'a> {
    name: &'a Ident,
    /// Whether it has the lifetime `'static`.
    is_static: bool,
    argument: &'a Type,
}

/// Reads a type as a [`GenericOfOne`]. `None` for any other type, such as one with two type
/// arguments.
fn generic_of_one(ty: &Type) -> Option<GenericOfOne<'_>> {
    let Type::Path(TypePath {
        qself: None, path, ..
    }) = bare_type(ty)
    else {
        return None;
    };
    let last = path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    let mut arguments = arguments.args.iter().peekable();
    let lifetime = arguments.next_if(|argument| matches!(argument, GenericArgument::Lifetime(_)));
    let is_static =
        matches!(lifetime, Some(GenericArgument::Lifetime(lifetime)) if lifetime.ident == "static");
    match (arguments.next(), arguments.next()) {
        (Some(GenericArgument::Type(argument)), None) => Some(GenericOfOne {
            name: &last.ident,
            is_static,
            argument,
        }),
        _ => None,
    }
}

/// Refuses `mut`, and any lifetime but `'_`.
fn refuse_mut_and_lifetime(reference: &TypeReference, errors: &mut Errors) {
    if let Some(mutability) = &reference.mutability {
        errors.push(
            mutability,
            "changes are not sent back to the caller; take `&`, and return what has changed",
        );
    }
    if let Some(lifetime) = reference
        .lifetime
        .as_ref()
        .filter(|lifetime| lifetime.ident != "_")
    {
        errors.push(
            lifetime,
            "lifetimes have no meaning across the network; remove this one",
        );
    }
}

/// What a type is for. This decides which lifetimes it may have, and the wording of errors.
#[derive(Clone, Copy)]
enum TypePosition {
    /// An argument. It may borrow from the request, as `Cow<'_, str>` does. The text is what the
    /// error advises to do with an owned type, such as "take a slice of".
    Argument(&'static str),
    /// An item that the caller sends.
    Item,
    /// What a method returns, or an item that it sends.
    Output,
}

impl TypePosition {
    fn verb(self) -> &'static str {
        match self {
            Self::Argument(verb) => verb,
            Self::Item => "take a stream of",
            Self::Output => "return",
        }
    }

    fn allows(self, lifetime: &Lifetime) -> bool {
        lifetime.ident == "static" || (lifetime.ident == "_" && matches!(self, Self::Argument(_)))
    }

    /// The error for a lifetime that is not allowed.
    fn lifetime_refusal(self) -> String {
        match self {
            Self::Argument(_) => {
                "this lifetime has no meaning across the network; write `'_` or `'static`".to_owned()
            }
            Self::Item | Self::Output => format!(
                "a type that borrows cannot be decoded here; write `'static`, or {} a type without lifetimes",
                self.verb()
            ),
        }
    }
}

/// Refuses parts of a type that cannot be decoded: references, lifetimes that the position of the
/// type does not allow, and what is not concrete.
fn refuse_undecodable(ty: &Type, position: TypePosition, errors: &mut Errors) {
    let verb = position.verb();
    let mut corrected = ty.clone();
    let mut replacer = BorrowReplacer {
        references: Vec::new(),
        position,
        errors,
    };
    replacer.visit_type_mut(&mut corrected);
    for reference in replacer.references {
        let suggestion = spelling::of(&corrected);
        errors.push(
            reference,
            format!("a reference cannot be decoded here; {verb} `{suggestion}` instead"),
        );
    }
}

/// Refuses what cannot be decoded, and replaces references by owned types for the suggestion.
struct BorrowReplacer<'a> {
    /// Refused later: the message needs the whole corrected type.
    references: Vec<TypeReference>,
    position: TypePosition,
    errors: &'a mut Errors,
}

impl VisitMut for BorrowReplacer<'_> {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if let Type::Reference(reference) = ty {
            let owned = owned(&reference.elem);
            // What is not concrete is refused by the methods below.
            if is_concrete(&owned) {
                self.references.push(reference.clone());
            }
            *ty = owned;
        }
        visit_mut::visit_type_mut(self, ty);
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if !self.position.allows(lifetime) {
            self.errors.push(lifetime, self.position.lifetime_refusal());
        }
    }

    fn visit_type_impl_trait_mut(&mut self, ty: &mut TypeImplTrait) {
        let verb = self.position.verb();
        self.errors.push(
            ty,
            format!("`impl Trait` names no type to decode; {verb} a concrete type instead"),
        );
    }

    fn visit_type_trait_object_mut(&mut self, ty: &mut TypeTraitObject) {
        let verb = self.position.verb();
        self.errors.push(
            ty,
            format!("a trait object cannot be decoded; {verb} a concrete type instead"),
        );
    }

    fn visit_path_mut(&mut self, path: &mut Path) {
        if path
            .segments
            .first()
            .is_some_and(|segment| segment.ident == "Self")
        {
            let verb = self.position.verb();
            self.errors.push(
                &*path,
                format!("the client does not know `Self`; {verb} a concrete type instead"),
            );
        }
        visit_mut::visit_path_mut(self, path);
    }
}

/// The reference type if this is a reference to `Self`.
pub(super) fn reference_to_self(ty: &Type) -> Option<&TypeReference> {
    let Type::Reference(reference) = bare_type(ty) else {
        return None;
    };
    let is_self = matches!(bare_type(&reference.elem), Type::Path(path) if path.path.is_ident("Self"));
    is_self.then_some(reference)
}

/// Whether this is neither a trait object, nor `impl Trait`, nor `Self` or an item of it.
fn is_concrete(ty: &Type) -> bool {
    !matches!(bare_type(ty), Type::TraitObject(_) | Type::ImplTrait(_)) && !begins_with_self(ty)
}

/// The owned type that replaces a reference to this one.
fn owned(referent: &Type) -> Type {
    match bare_type(referent) {
        Type::Reference(inner) => owned(&inner.elem),
        Type::Path(path) if path.path.is_ident("str") => parse_quote!(String),
        Type::Slice(slice) => {
            let element = &slice.elem;
            parse_quote!(Vec<#element>)
        }
        other => other.clone(),
    }
}
