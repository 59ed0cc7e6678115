//! Types as TypeScript writes them.

use super::super::layout::Doc;
use super::super::model::{Content, Field, Int, Key, Service, Shape, Tagging, Type, TypeId, Variant};
use super::super::order::Order;
use super::naming::Names;
use super::text::STEP;
use super::text::{jsdoc_lines, key, literal};

/// Writes types.
#[derive(Debug)]
pub(super) struct TypeWriter<'a> {
    names: &'a Names,
    /// The order that aliases would need. The compiler refuses an alias that mentions itself, other
    /// than within an array, a tuple, a `Map` or the type of an object, so what is unmet here is
    /// written as `unknown`.
    cycles: Order,
}

impl<'a> TypeWriter<'a> {
    pub(super) fn new(service: &Service, names: &'a Names) -> Self {
        let needs = service.types.ids().map(|id| {
            let mut needs = Vec::new();
            let mut add = |ty: &Type| needs_at_once(ty, &mut needs);
            match &service.types.get(id).shape {
                Shape::Alias(ty) => add(ty),
                Shape::Untagged(alternatives) => {
                    let values = alternatives
                        .iter()
                        .filter_map(|alternative| alternative.content.value());
                    values.for_each(add);
                }
                Shape::Struct(_) | Shape::Units(_) | Shape::Enum(..) | Shape::Unknown => {}
            }
            needs
        });
        let cycles = Order::new(needs.collect());
        Self { names, cycles }
    }

    pub(super) fn ty(&self, ty: &Type) -> String {
        self.written(ty, None)
    }

    /// Writes a type as a part of the alias `within`.
    pub(super) fn member(&self, within: TypeId, ty: &Type) -> String {
        self.written(ty, Some(within))
    }

    /// Whether the alias `id` may mention `other` only where the compiler allows a cycle, such as
    /// in a list. Elsewhere in the alias, `other` is written as `unknown`.
    pub(super) fn is_unmet(&self, id: TypeId, other: TypeId) -> bool {
        self.cycles.is_unmet(id, other)
    }

    /// Writes a type. `within` is the alias that it is a part of. `None` if it is in no alias, or
    /// where an alias may mention itself.
    fn written(&self, ty: &Type, within: Option<TypeId>) -> String {
        match ty {
            Type::Bool => "boolean".to_owned(),
            Type::Int(int) => integer(*int).to_owned(),
            Type::F32 | Type::F64 => "number".to_owned(),
            Type::Char | Type::Text => "string".to_owned(),
            Type::Bytes => "Uint8Array".to_owned(),
            Type::Unit => "null".to_owned(),
            Type::Any => "unknown".to_owned(),
            Type::Named(id) => match within {
                Some(within) if self.is_unmet(within, *id) => "unknown".to_owned(),
                _ => self.names.ty(*id).to_owned(),
            },
            Type::Option(inner) => format!("{} | null", self.written(inner, within)),
            // Within lists, tuples and `Map`, an alias may mention itself.
            Type::List(item) => match **item {
                Type::Option(_) => format!("({})[]", self.ty(item)),
                _ => format!("{}[]", self.ty(item)),
            },
            Type::Tuple(types) => {
                let types: Vec<_> = types.iter().map(|ty| self.ty(ty)).collect();
                format!("[{}]", types.join(", "))
            }
            Type::Map(key, value) => match **key {
                Key::Text => format!("Record<string, {}>", self.written(value, within)),
                Key::Bool => format!("Map<boolean, {}>", self.ty(value)),
                Key::Int(int) => format!("Map<{}, {}>", integer(int), self.ty(value)),
                Key::Named(id) => format!("Map<{}, {}>", self.names.ty(id), self.ty(value)),
            },
        }
    }

    /// Returns the declaration of a field.
    pub(super) fn property(&self, field: &Field) -> String {
        let optional = if is_optional(field) { "?" } else { "" };
        format!("{}{optional}: {}", key(&field.name), self.ty(&field.ty))
    }

    /// Returns the type of a variant's values, as a member of a union.
    pub(super) fn variant(&self, tagging: &Tagging, variant: &Variant) -> Doc {
        let (fields, content): (&[Field], _) = match &variant.content {
            Content::Unit => (&[], None),
            Content::Value(ty) => (&[], Some(Doc::text(self.ty(ty)))),
            Content::Fields(fields) => (fields, Some(self.alternative(fields))),
        };
        let in_property = |name: &str| {
            let name = Doc::text(format!("{}: ", key(name)));
            Vec::from_iter(content.map(|content| Doc::Concat(vec![name, content])))
        };
        let (tag, content) = match tagging {
            Tagging::External => ("kind", in_property("value")),
            // The fields are beside the tag: no property holds them.
            Tagging::Internal { tag } => (tag.as_str(), self.properties(fields)),
            Tagging::Adjacent { tag, content } => (tag.as_str(), in_property(content)),
        };
        let tag = Doc::text(format!("{}: {}", key(tag), literal(&variant.name)));
        object([vec![tag], content].concat(), has_docs(fields))
    }

    /// Returns the type of an alternative with fields, as a member of a union.
    pub(super) fn alternative(&self, fields: &[Field]) -> Doc {
        object(self.properties(fields), has_docs(fields))
    }

    fn properties(&self, fields: &[Field]) -> Vec<Doc> {
        let property = |field: &Field| {
            // The deepest indentation of a field: in the content of a variant, in a union on
            // several lines.
            let docs = jsdoc_lines(&field.docs, 4 * STEP).into_iter();
            let mut property: Vec<_> = docs.flat_map(|line| [Doc::Text(line), Doc::HardLine]).collect();
            property.push(Doc::text(self.property(field)));
            Doc::Concat(property)
        };
        fields.iter().map(property).collect()
    }
}

/// Returns the type of an object. With documentation, it is on several lines.
fn object(properties: Vec<Doc>, has_docs: bool) -> Doc {
    if properties.is_empty() {
        return Doc::text("{}");
    }
    let line = || if has_docs { Doc::HardLine } else { Doc::Line };
    let mut within = vec![line()];
    within.extend(Doc::joined(
        properties,
        &Doc::Concat(vec![Doc::text(";"), line()]),
    ));
    within.push(if has_docs {
        Doc::text(";")
    } else {
        Doc::IfBroken(";")
    });
    Doc::Group(vec![Doc::text("{"), Doc::Indent(within), line(), Doc::text("}")])
}

fn has_docs(fields: &[Field]) -> bool {
    fields.iter().any(|field| !jsdoc_lines(&field.docs, 0).is_empty())
}

/// Whether a field may be absent in TypeScript. An option or a unit is `null` instead.
pub(super) fn is_optional(field: &Field) -> bool {
    !field.is_required && !matches!(field.ty, Type::Option(_) | Type::Unit)
}

fn integer(int: Int) -> &'static str {
    if int.bits <= 32 { "number" } else { "bigint" }
}

/// Collects the types that the compiler resolves at once when an alias stands for this type. A
/// `Record`, unlike a `Map`, is an alias itself, and its values are resolved too.
fn needs_at_once(ty: &Type, needs: &mut Vec<usize>) {
    match ty {
        Type::Named(id) => needs.push(id.0),
        Type::Option(inner) => needs_at_once(inner, needs),
        Type::Map(key, value) if **key == Key::Text => needs_at_once(value, needs),
        _ => {}
    }
}
