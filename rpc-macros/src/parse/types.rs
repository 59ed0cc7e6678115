//! What the types of arguments and results may be.

use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{
    GenericArgument, Lifetime, Path, PathArguments, Type, TypeImplTrait, TypePath, TypeReference,
    TypeTraitObject, parse_quote,
};

use super::errors::Errors;
use crate::model::Shape;

/// Reads an argument's type: a reference to something owned, or something owned.
pub(super) fn argument_shape(ty: &Type, errors: &mut Errors) -> Shape {
    let Type::Reference(reference) = bare(ty) else {
        refuse_borrows(ty, "take", errors);
        return if is_byte_vec(ty) {
            Shape::ByteVec
        } else {
            Shape::Owned
        };
    };
    refuse_special_reference(reference, errors);
    match bare(&reference.elem) {
        Type::Path(path) if path.path.is_ident("str") => Shape::Str,
        Type::Slice(slice) if is_u8(&slice.elem) => Shape::Bytes,
        Type::Slice(slice) => {
            refuse_borrows(&slice.elem, "take a slice of", errors);
            Shape::Slice(slice.elem.clone())
        }
        referent => {
            refuse_borrows(referent, "take a reference to", errors);
            Shape::Reference(reference.elem.clone())
        }
    }
}

/// Reads the context's type, which is a reference.
pub(super) fn context_type(ty: &Type, errors: &mut Errors) {
    match bare(ty) {
        Type::Reference(reference) => refuse_special_reference(reference, errors),
        _ => errors.push(
            ty,
            "the context is lent to the method; take a reference, such as `&Context`",
        ),
    }
}

/// Reads a method's return type: something owned.
pub(super) fn output(ty: &Type, errors: &mut Errors) {
    refuse_borrows(ty, "return", errors);
}

/// Whether the type goes by the name of `Result`.
pub(super) fn is_result(ty: &Type) -> bool {
    let Type::Path(TypePath {
        qself: None, path, ..
    }) = bare(ty)
    else {
        return false;
    };
    path.segments
        .last()
        .is_some_and(|segment| segment.ident == "Result")
}

pub(super) fn is_unit(ty: &Type) -> bool {
    matches!(bare(ty), Type::Tuple(tuple) if tuple.elems.is_empty())
}

/// The type without the parentheses, or the invisible group that `macro_rules!` puts around a `$ty`.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        _ => ty,
    }
}

fn is_u8(ty: &Type) -> bool {
    matches!(bare(ty), Type::Path(path) if path.path.is_ident("u8"))
}

fn is_byte_vec(ty: &Type) -> bool {
    let Type::Path(TypePath {
        qself: None, path, ..
    }) = bare(ty)
    else {
        return false;
    };
    let Some(last) = path.segments.last() else {
        return false;
    };
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return false;
    };
    let mut arguments = arguments.args.iter();
    let element_is_u8 = matches!(arguments.next(), Some(GenericArgument::Type(element)) if is_u8(element));
    last.ident == "Vec" && element_is_u8 && arguments.next().is_none()
}

fn refuse_special_reference(reference: &TypeReference, errors: &mut Errors) {
    if let Some(mutability) = &reference.mutability {
        errors.push(
            mutability,
            "changes made by the worker do not travel back; take `&`, and return what has changed",
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

/// Refuses whatever is borrowed in a type, or has no single concrete type to be decoded to.
fn refuse_borrows(ty: &Type, advice: &str, errors: &mut Errors) {
    let mut mended = ty.clone();
    let mut finder = BorrowFinder {
        references: Vec::new(),
        advice,
        errors,
    };
    finder.visit_type_mut(&mut mended);
    for reference in finder.references {
        let mended = spelling(&mended);
        errors.push(
            reference,
            format!("a reference cannot be decoded here; {advice} `{mended}` instead"),
        );
    }
}

/// Replaces references by what they could be owned as, to be able to tell the user the mended type.
struct BorrowFinder<'a> {
    references: Vec<TypeReference>,
    advice: &'a str,
    errors: &'a mut Errors,
}

impl VisitMut for BorrowFinder<'_> {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if let Type::Reference(reference) = ty {
            let owned = owned(&reference.elem);
            self.references.push(reference.clone());
            *ty = owned;
        }
        visit_mut::visit_type_mut(self, ty);
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if lifetime.ident != "static" {
            let advice = self.advice;
            let message =
                format!("a type that borrows cannot be decoded; {advice} a type without lifetimes instead");
            self.errors.push(lifetime, message);
        }
    }

    fn visit_type_impl_trait_mut(&mut self, ty: &mut TypeImplTrait) {
        let advice = self.advice;
        self.errors.push(
            ty,
            format!("`impl Trait` names no type to decode; {advice} a concrete type instead"),
        );
    }

    fn visit_type_trait_object_mut(&mut self, ty: &mut TypeTraitObject) {
        let advice = self.advice;
        self.errors.push(
            ty,
            format!("a trait object cannot be decoded; {advice} a concrete type instead"),
        );
    }

    fn visit_path_mut(&mut self, path: &mut Path) {
        if path
            .segments
            .first()
            .is_some_and(|segment| segment.ident == "Self")
        {
            let advice = self.advice;
            self.errors.push(
                &*path,
                format!("the client does not know `Self`; {advice} a concrete type instead"),
            );
        }
        visit_mut::visit_path_mut(self, path);
    }
}

fn owned(referent: &Type) -> Type {
    match bare(referent) {
        Type::Path(path) if path.path.is_ident("str") => parse_quote!(String),
        Type::Slice(slice) => {
            let element = &slice.elem;
            parse_quote!(Vec<#element>)
        }
        other => other.clone(),
    }
}

/// The type as a human would write it: tokens are printed with spaces between them, and only those between words and
/// after a comma or semicolon stay.
fn spelling(ty: &Type) -> String {
    let printed = ty.to_token_stream().to_string();
    let mut spelling = String::new();
    let mut rest = printed.chars().peekable();
    while let Some(c) = rest.next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let last = spelling.chars().last().unwrap_or(' ');
        let next = rest.peek().copied().unwrap_or(' ');
        if c != ' ' || (is_word(last) && is_word(next)) || matches!(last, ',' | ';') {
            spelling.push(c);
        }
    }
    spelling
}
