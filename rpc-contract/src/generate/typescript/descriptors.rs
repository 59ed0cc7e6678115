//! Descriptors of types: TypeScript expressions such as `t.list(t.u32)`, by which the package
//! checks and converts values. These are not the service descriptors of the runtime.

use super::super::layout::Doc;
use super::super::model::{
    Alternative, Content, Field, Int, Key, Service, Shape, Tagging, Type, TypeId, Unit, Variant,
};
use super::super::order::Order;
use super::naming::Names;
use super::text::{key_of_value, literal};
use super::types::{TypeWriter, is_optional};

/// Writes descriptors.
#[derive(Debug)]
pub(super) struct DescriptorWriter<'a> {
    names: &'a Names,
    /// In which order the types are declared. In a declaration, a reference to the type itself or
    /// to a later one is lazy.
    pub(super) order: Order,
}

impl<'a> DescriptorWriter<'a> {
    pub(super) fn new(service: &Service, names: &'a Names) -> Self {
        let needs = service.types.ids().map(|id| {
            let mut needs = Vec::new();
            service
                .types
                .parts(id, &mut |ty| ty.each_name(&mut |id| needs.push(id.0)));
            needs
        });
        let order = Order::new(needs.collect());
        Self { names, order }
    }

    /// Writes the descriptor of a type for code that follows all types, and needs no lazy
    /// reference.
    pub(super) fn ty(&self, ty: &Type) -> Doc {
        self.part(ty, None)
    }

    /// Writes the descriptor of the type `id`, which has this shape.
    pub(super) fn shape(&self, id: TypeId, shape: &Shape, types: &TypeWriter<'_>) -> Doc {
        match shape {
            Shape::Struct(fields) => {
                call_with_object("t.struct", vec![], object_on_lines(self.fields(fields, id)))
            }
            Shape::Alias(ty) => self.alias_part(ty, id, types),
            Shape::Unknown => Doc::text("t.any"),
            Shape::Units(units) => enumeration(units),
            Shape::Enum(tagging, variants) => self.enum_with_contents(id, tagging, variants),
            Shape::Untagged(alternatives) => self.untagged(id, alternatives, types),
        }
    }

    /// Returns the descriptor of an enum with contents.
    fn enum_with_contents(&self, id: TypeId, tagging: &Tagging, variants: &[Variant]) -> Doc {
        let entries = variants.iter().map(|variant| {
            let content = match &variant.content {
                Content::Unit => Doc::text("null"),
                Content::Value(ty) => self.part(ty, Some(id)),
                Content::Fields(fields) => self.struct_within(fields, id),
            };
            property(&variant.name, content)
        });
        let entries = entries.collect();
        let (function, first) = tagged(tagging);
        call_with_object(function, first, object_on_lines(entries))
    }

    /// Writes the fields of a variant or an alternative of the type `id`.
    fn struct_within(&self, fields: &[Field], id: TypeId) -> Doc {
        call_with_object("t.struct", vec![], object(self.fields(fields, id)))
    }

    fn untagged(&self, id: TypeId, alternatives: &[Alternative], types: &TypeWriter<'_>) -> Doc {
        let alternatives = alternatives.iter().map(|alternative| match &alternative.content {
            Content::Unit => Doc::text("t.unit"),
            Content::Value(ty) => self.alias_part(ty, id, types),
            Content::Fields(fields) => self.struct_within(fields, id),
        });
        call("t.untagged", alternatives.collect())
    }

    /// Writes a part of an alias. A type that the alias cannot mention is any value, because the
    /// alias has `unknown` for it.
    fn alias_part(&self, ty: &Type, id: TypeId, types: &TypeWriter<'_>) -> Doc {
        match ty {
            Type::Named(other) if types.is_unmet(id, *other) => Doc::text("t.any"),
            Type::Option(inner) => call("t.option", vec![self.alias_part(inner, id, types)]),
            Type::Map(key, value) if **key == Key::Text => {
                call("t.record", vec![self.alias_part(value, id, types)])
            }
            ty => self.part(ty, Some(id)),
        }
    }

    /// Returns the properties of an object with the descriptors of fields.
    fn fields(&self, fields: &[Field], within: TypeId) -> Vec<Doc> {
        let field = |field: &Field| {
            let ty = self.part(&field.ty, Some(within));
            let ty = if is_optional(field) {
                call("t.optional", vec![ty])
            } else {
                ty
            };
            property(&field.name, ty)
        };
        fields.iter().map(field).collect()
    }

    /// Writes the descriptor of a type. `within` is the type in whose declaration it is, if any.
    fn part(&self, ty: &Type, within: Option<TypeId>) -> Doc {
        let nested = |ty: &Type| self.part(ty, within);
        match ty {
            Type::Bool => Doc::text("t.bool"),
            Type::Int(int) => Doc::text(integer(*int)),
            Type::F32 => Doc::text("t.f32"),
            Type::F64 => Doc::text("t.f64"),
            Type::Char => Doc::text("t.char"),
            Type::Text => Doc::text("t.string"),
            Type::Bytes => Doc::text("t.bytes"),
            Type::Unit => Doc::text("t.unit"),
            Type::Any => Doc::text("t.any"),
            Type::Named(id) => self.reference(*id, within),
            Type::Option(inner) => call("t.option", vec![nested(inner)]),
            Type::List(item) => call("t.list", vec![nested(item)]),
            Type::Tuple(types) => call("t.tuple", types.iter().map(nested).collect()),
            Type::Map(key, value) => match **key {
                Key::Text => call("t.record", vec![nested(value)]),
                Key::Bool => call("t.map", vec![Doc::text("t.bool"), nested(value)]),
                Key::Int(int) => call("t.map", vec![Doc::text(integer(int)), nested(value)]),
                Key::Named(id) => call("t.map", vec![self.reference(id, within), nested(value)]),
            },
        }
    }

    /// Refers to the descriptor of a type with a name. The reference is lazy within the declaration
    /// of that type, and of one that comes before it.
    fn reference(&self, id: TypeId, within: Option<TypeId>) -> Doc {
        let name = self.names.ty(id);
        match within {
            Some(within) if self.order.is_unmet(within, id) => {
                call(LAZY, vec![Doc::text(format!("() => {name}"))])
            }
            _ => Doc::text(name),
        }
    }
}

/// Returns the function for an enum, and its arguments before the variants.
fn tagged(tagging: &Tagging) -> (&'static str, Vec<String>) {
    match tagging {
        Tagging::External => ("t.variants", vec![]),
        Tagging::Internal { tag } => ("t.tagged", vec![literal(tag)]),
        Tagging::Adjacent { tag, content } => ("t.adjacent", vec![literal(tag), literal(content)]),
    }
}

/// The function for a reference to a type whose constant is not initialized yet.
const LAZY: &str = "t.lazy";

/// Returns the descriptor of an enum of units.
fn enumeration(units: &[Unit]) -> Doc {
    call(
        "t.enumeration",
        units.iter().map(|unit| Doc::text(literal(&unit.name))).collect(),
    )
}

/// Returns a property of an object literal.
pub(super) fn property(name: &str, value: Doc) -> Doc {
    Doc::Concat(vec![Doc::text(format!("{}: ", key_of_value(name))), value])
}

pub(super) fn call(function: &str, mut arguments: Vec<Doc>) -> Doc {
    let is_lazy = |argument: &Doc| match argument {
        Doc::Concat(parts) => matches!(parts.first(), Some(Doc::Text(function)) if function == LAZY),
        _ => false,
    };
    // Prettier does so if one of several arguments is a call with a function.
    let has_lazy = arguments.len() > 1 && arguments.iter().any(is_lazy);
    if has_lazy {
        put_on_lines(&mut arguments);
    }
    Doc::Concat(vec![
        Doc::text(function),
        Doc::list("(", arguments, ")", Doc::SoftLine),
    ])
}

/// Puts each item on a line of its own, once they are in a [`Doc::list`].
fn put_on_lines(items: &mut [Doc]) {
    if let Some(first) = items.first_mut() {
        *first = Doc::Concat(vec![Doc::Broken, first.clone()]);
    }
}

/// Returns an object literal, on one line if it fits.
pub(super) fn object(properties: Vec<Doc>) -> Doc {
    Doc::list("{", properties, "}", Doc::Line)
}

/// Returns an object literal with each property on a line of its own.
fn object_on_lines(mut properties: Vec<Doc>) -> Doc {
    put_on_lines(&mut properties);
    object(properties)
}

/// Returns a call whose last argument is an object, after those that are `first`.
pub(super) fn call_with_object(function: &str, first: Vec<String>, object: Doc) -> Doc {
    let mut call = vec![Doc::text(format!("{function}("))];
    for argument in first {
        call.extend([Doc::Text(argument), Doc::text(SEPARATOR)]);
    }
    call.extend([object, Doc::text(")")]);
    Doc::Concat(call)
}

/// What [`call_with_object`] puts between arguments, and [`with_arguments_on_lines`] finds again.
const SEPARATOR: &str = ", ";

/// Returns what [`call_with_object`] has returned, but with each argument on a line of its own.
/// `None` for any other descriptor, and for a call with only one argument.
pub(super) fn with_arguments_on_lines(descriptor: &Doc) -> Option<Doc> {
    let Doc::Concat(parts) = descriptor else {
        return None;
    };
    let [Doc::Text(open), arguments @ .., Doc::Text(_)] = parts.as_slice() else {
        return None;
    };
    let arguments = arguments.iter();
    let arguments = arguments.filter(|part| !matches!(part, Doc::Text(text) if text == SEPARATOR));
    let arguments: Vec<_> = arguments.cloned().collect();
    (arguments.len() > 1).then(|| Doc::list(open, arguments, ")", Doc::SoftLine))
}

fn integer(int: Int) -> String {
    format!("t.{}{}", if int.is_signed { 'i' } else { 'u' }, int.bits)
}
