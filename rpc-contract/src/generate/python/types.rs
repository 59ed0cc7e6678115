//! Types as Python writes them.

use super::super::layout::Doc;
use super::super::model::{Int, Key, Service, Shape, Type, TypeId};
use super::super::order::Order;
use super::naming::Names;

/// Writes types.
#[derive(Debug)]
pub(super) struct TypeWriter<'a> {
    service: &'a Service,
    names: &'a Names,
    /// In which order the types are declared.
    pub(super) order: Order,
}

impl<'a> TypeWriter<'a> {
    pub(super) fn new(service: &'a Service, names: &'a Names) -> Self {
        Self {
            service,
            names,
            order: order(service),
        }
    }

    /// Writes a type within other code, such as a list of parameters.
    pub(super) fn ty(&self, ty: &Type) -> Doc {
        Doc::Group(self.operands(ty, None))
    }

    /// Writes a type as the annotation of a field or of a result. A union that does not fit is in
    /// parentheses.
    pub(super) fn annotation(&self, ty: &Type) -> Doc {
        parenthesized_if_union(self.operands(ty, None))
    }

    /// Writes the type that the alias `id` stands for, like an annotation. A type that cannot be
    /// declared before the alias is written as `Any`.
    pub(super) fn alias_of(&self, id: TypeId, ty: &Type) -> Doc {
        parenthesized_if_union(self.operands(ty, Some(id)))
    }

    /// Writes a type, which is no option, as a member of a union that is the alias `within`. A type
    /// that cannot be declared before the alias is written as `Any`.
    pub(super) fn member(&self, within: TypeId, ty: &Type) -> Doc {
        self.operand(ty, Some(within))
    }

    /// Returns the one operand that a type is. An option is a union with `None`: two operands, with
    /// what is between them. `within` is the alias in whose declaration they are, if any.
    fn operands(&self, ty: &Type, within: Option<TypeId>) -> Vec<Doc> {
        match ty {
            // Python refuses `None | None`.
            Type::Option(inner) if self.service.types.is_nothing(inner) => vec![self.operand(inner, within)],
            Type::Option(inner) => vec![self.operand(inner, within), Doc::Line, Doc::text("| None")],
            ty => vec![self.operand(ty, within)],
        }
    }

    /// Writes one operand of a union.
    fn operand(&self, ty: &Type, within: Option<TypeId>) -> Doc {
        let nested = |ty: &Type| Doc::Group(self.operands(ty, within));
        match ty {
            Type::Bool => Doc::text("bool"),
            Type::Int(int) => Doc::text(integer(*int)),
            Type::F32 => Doc::text("F32"),
            Type::F64 => Doc::text("float"),
            Type::Char => Doc::text("Char"),
            Type::Text => Doc::text("str"),
            Type::Bytes => Doc::text("bytes"),
            Type::Unit => Doc::text("None"),
            Type::Any => Doc::text("Any"),
            Type::Named(id) => match within {
                Some(within) if self.order.is_unmet(within, *id) => Doc::text("Any"),
                _ => Doc::text(self.names.ty(*id)),
            },
            // Not reached: callers unwrap options, and no option is directly within another.
            Type::Option(_) => nested(ty),
            Type::List(item) => generic_of_one("list[", nested(item)),
            Type::Tuple(types) => match types.as_slice() {
                [single] => generic_of_one("tuple[", nested(single)),
                types => Doc::list("tuple[", types.iter().map(nested).collect(), "]", Doc::SoftLine),
            },
            Type::Map(key, value) => {
                let key = match **key {
                    Key::Text => Doc::text("str"),
                    Key::Bool => Doc::text("bool"),
                    Key::Int(int) => Doc::text(integer(int)),
                    // Never unmet: an enum of units needs no other type.
                    Key::Named(id) => Doc::text(self.names.ty(id)),
                };
                Doc::list("dict[", vec![key, nested(value)], "]", Doc::SoftLine)
            }
        }
    }
}

/// Returns the union of types as an annotation.
pub(super) fn union(members: Vec<Doc>) -> Doc {
    parenthesized_if_union(Doc::joined(
        members,
        &Doc::Concat(vec![Doc::Line, Doc::text("| ")]),
    ))
}

/// Puts the operands of a union in parentheses if they do not fit. A single one gets none: it is a
/// name, or has brackets of its own to break in.
fn parenthesized_if_union(mut operands: Vec<Doc>) -> Doc {
    match operands.len() {
        1 => operands.remove(0),
        _ => parenthesized(operands),
    }
}

/// Returns an expression that is in parentheses if it does not fit.
pub(super) fn parenthesized(operands: Vec<Doc>) -> Doc {
    Doc::Group(vec![
        Doc::IfBroken("("),
        Doc::Indent(vec![Doc::SoftLine, Doc::Group(operands)]),
        Doc::SoftLine,
        Doc::IfBroken(")"),
    ])
}

/// Returns a generic type with one parameter, given what is before it, with `[`. Unlike in
/// [`Doc::list`], no comma follows the parameter on a line of its own: Python reads `(int,)` in
/// `list[int,]`, a tuple, so formatters add none.
pub(super) fn generic_of_one(open: &str, parameter: Doc) -> Doc {
    Doc::Group(vec![
        Doc::text(open),
        Doc::Indent(vec![Doc::SoftLine, parameter]),
        Doc::SoftLine,
        Doc::text("]"),
    ])
}

pub(super) fn integer(int: Int) -> String {
    format!("{}{}", if int.is_signed { 'I' } else { 'U' }, int.bits)
}

/// Returns the order in which types are declared. An alias is an expression, whose parts must be
/// declared before it; those that cannot be are [unmet](Order::unmet). A class needs nothing before
/// it: the annotations of its fields are evaluated after the module is loaded.
fn order(service: &Service) -> Order {
    let types = &service.types;
    let needs = types.ids().map(|id| match &types.get(id).shape {
        Shape::Alias(ty) => ids_in([ty]),
        // An alias of a union. An alternative with fields is a class.
        Shape::Untagged(alternatives) => ids_in(
            alternatives
                .iter()
                .filter_map(|alternative| alternative.content.value()),
        ),
        // Classes, aliases of `Any`, and for an enum an alias of the union of its variants, whose
        // classes are declared with it.
        Shape::Struct(_) | Shape::Units(_) | Shape::Enum(..) | Shape::Unknown => Vec::new(),
    });
    Order::new(needs.collect())
}

/// Returns the ids of the named types that these types mention.
fn ids_in<'a>(types: impl IntoIterator<Item = &'a Type>) -> Vec<usize> {
    let mut ids = Vec::new();
    for ty in types {
        ty.each_name(&mut |id| ids.push(id.0));
    }
    ids
}
