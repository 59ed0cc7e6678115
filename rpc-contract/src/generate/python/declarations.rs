//! The classes and aliases of a service's types, and of the errors of its methods.

use super::super::docs::quoted;
use super::super::layout::{Doc, WIDTH};
use super::super::model::{
    Alternative, Content, Field, Named, Service, Shape, Tagging, Type, TypeId, Unit, Variant,
};
use super::naming::{self, Names};
use super::text::{STEP, docstring, literal};
use super::types::{self, TypeWriter};

/// Returns the declarations, each after two blank lines.
pub(super) fn declarations(service: &Service, names: &Names) -> String {
    let types = TypeWriter::new(service, names);
    let writer = Writer {
        service,
        names,
        types,
    };
    let mut written: String = writer
        .types
        .order
        .types
        .iter()
        .map(|id| writer.declaration(*id))
        .collect();
    for (method, names) in service.methods.iter().zip(&names.methods) {
        if let (Some(error), Some(class)) = (&method.error, &names.failure) {
            written.push_str(&writer.failure(&method.name, class, error));
        }
    }
    written
}

struct Writer<'a> {
    service: &'a Service,
    names: &'a Names,
    types: TypeWriter<'a>,
}

impl Writer<'_> {
    /// Writes what declares a type: classes, an alias, or both.
    fn declaration(&self, id: TypeId) -> String {
        let named = self.service.types.get(id);
        let (name, is_error) = (self.names.ty(id), self.names.is_error[id.0]);
        let classes = &self.names.variants[id.0];
        match &named.shape {
            Shape::Struct(fields) => {
                let docs = documented(&named.docs, || format!("The struct {}.", quoted(&named.name)));
                let base = is_error.then_some("rpc_runtime.MethodError");
                class(
                    "@rpc_runtime.record\n",
                    name,
                    base,
                    &docs,
                    &self.fields(fields, is_error),
                )
            }
            Shape::Alias(ty) => alias(name, self.types.alias_of(id, ty), &named.docs),
            Shape::Unknown => alias(name, Doc::text("Any"), &named.docs),
            Shape::Units(units) if is_error => {
                let units = units.iter().map(|unit| Variant {
                    name: unit.name.clone(),
                    docs: unit.docs.clone(),
                    content: Content::Unit,
                });
                self.errors(
                    named,
                    name,
                    &Tagging::External,
                    &units.collect::<Vec<_>>(),
                    classes,
                )
            }
            Shape::Units(units) => enumeration(named, name, units),
            Shape::Enum(tagging, variants) if is_error => {
                self.errors(named, name, tagging, variants, classes)
            }
            Shape::Enum(tagging, variants) => {
                let mut written = String::new();
                for (variant, class) in variants.iter().zip(classes) {
                    written.push_str(&self.variant(named, tagging, variant, class, None));
                }
                let members = classes.iter().map(Doc::text).collect();
                written + &alias(name, types::union(members), &named.docs)
            }
            Shape::Untagged(alternatives) => self.untagged(id, named, alternatives),
        }
    }

    /// Writes an enum as exceptions: a base class called `name`, and one of `classes` for each
    /// variant.
    fn errors(
        &self,
        named: &Named,
        name: &str,
        tagging: &Tagging,
        variants: &[Variant],
        classes: &[String],
    ) -> String {
        let docs = documented(&named.docs, || format!("The error {}.", quoted(&named.name)));
        let mut written = class("", name, Some("rpc_runtime.MethodError"), &docs, "");
        for (variant, class) in variants.iter().zip(classes) {
            written.push_str(&self.variant(named, tagging, variant, class, Some(name)));
        }
        written
    }

    /// Writes the class `name` of a variant of the enum `named`. With a base, it is an exception.
    fn variant(
        &self,
        named: &Named,
        tagging: &Tagging,
        variant: &Variant,
        name: &str,
        base: Option<&str>,
    ) -> String {
        let mut arguments = vec![Doc::text(literal(&variant.name))];
        let mut option =
            |name: &str, value: &str| arguments.push(Doc::text(format!("{name}={}", literal(value))));
        match tagging {
            Tagging::External => {}
            Tagging::Internal { tag } => option("tag", tag),
            Tagging::Adjacent { tag, content } => {
                option("tag", tag);
                option("content", content);
            }
        }
        let body = match &variant.content {
            Content::Unit => String::new(),
            Content::Value(ty) => {
                option("shape", "newtype");
                self.field("value", &only_field("value", ty))
            }
            Content::Fields(fields) => {
                // Otherwise the package would take it for a variant without content.
                if fields.is_empty() {
                    option("shape", "struct");
                }
                self.fields(fields, base.is_some())
            }
        };
        let call = Doc::Concat(vec![
            Doc::text("@rpc_runtime.variant"),
            Doc::list("(", arguments, ")", Doc::SoftLine),
        ]);
        let decorator = format!("{}\n", call.render(WIDTH, 0, STEP));
        let docs = documented(&variant.docs, || {
            format!(
                "The variant {} of {}.",
                quoted(&variant.name),
                quoted(&named.name)
            )
        });
        class(&decorator, name, base, &docs, &body)
    }

    /// Writes an untagged enum: a class for each alternative with fields, and an alias of the union
    /// of all alternatives. If one may be `null`, `None` is at the end of the union.
    fn untagged(&self, id: TypeId, named: &Named, alternatives: &[Alternative]) -> String {
        let (mut written, mut members, mut has_none) = (String::new(), Vec::new(), false);
        for (alternative, name) in alternatives.iter().zip(&self.names.variants[id.0]) {
            match &alternative.content {
                Content::Unit => has_none = true,
                Content::Value(ty) if self.service.types.is_nothing(ty) => has_none = true,
                Content::Value(Type::Option(inner)) => {
                    has_none = true;
                    members.push(self.types.member(id, inner));
                }
                Content::Value(ty) => members.push(self.types.member(id, ty)),
                Content::Fields(fields) => {
                    let docs = documented(&alternative.docs, || {
                        format!("A variant of {}.", quoted(&named.name))
                    });
                    let fields = self.fields(fields, false);
                    written.push_str(&class("@rpc_runtime.record\n", name, None, &docs, &fields));
                    members.push(Doc::text(name));
                }
            }
        }
        if has_none {
            members.push(Doc::text("None"));
        }
        written + &alias(self.names.ty(id), types::union(members), &named.docs)
    }

    /// Writes the exception of a method whose error is no exception itself. It holds the error.
    fn failure(&self, method: &str, name: &str, error: &Type) -> String {
        let docs = format!("The error of {}.", quoted(method));
        let field = self.field("error", &only_field("error", error));
        class(
            "@rpc_runtime.transparent\n",
            name,
            Some("rpc_runtime.MethodError"),
            &docs,
            &field,
        )
    }

    /// Writes the fields of a class.
    fn fields(&self, fields: &[Field], is_error: bool) -> String {
        let names = naming::fields(fields, is_error);
        let fields = fields.iter().zip(names);
        members(fields.map(|(field, name)| (self.field(&name, field), docstring(&field.docs, STEP))))
    }

    /// Writes a field. One whose name differs on the wire has that name in its annotation.
    fn field(&self, name: &str, field: &Field) -> String {
        let (absent, default) = absent(&field.ty, field.is_required);
        let annotation = if field.name != name {
            let ty = type_or_absent(self.types.ty(&field.ty), absent);
            let wire = Doc::text(format!("wire({})", literal(&field.name)));
            Doc::list("Annotated[", vec![ty, wire], "]", Doc::SoftLine)
        } else if let Some(absent) = absent {
            types::union(vec![self.types.ty(&field.ty), Doc::text(absent)])
        } else {
            self.types.annotation(&field.ty)
        };
        let mut line = vec![Doc::text(format!("{name}: ")), annotation];
        if let Some(default) = default {
            line.push(Doc::text(" = "));
            line.push(types::parenthesized(vec![Doc::text(default)]));
        }
        let line = Doc::Concat(line).render(WIDTH, STEP, STEP);
        format!("    {line}\n")
    }
}

/// Returns the only field of a class that holds one value.
fn only_field(name: &str, ty: &Type) -> Field {
    Field {
        name: name.to_owned(),
        docs: String::new(),
        ty: ty.clone(),
        is_required: true,
    }
}

/// Returns how Python code shows that a value may be left out: the type of an absent value, unless
/// `ty` includes it, and the default. Both are `None` if the value is required.
pub(super) fn absent(ty: &Type, is_required: bool) -> (Option<&'static str>, Option<&'static str>) {
    match ty {
        _ if is_required => (None, None),
        Type::Option(_) | Type::Unit => (None, Some("None")),
        Type::Any => (None, Some("UNSET")),
        _ => (Some("Unset"), Some("UNSET")),
    }
}

/// Writes a type within other code, in a union with that of an absent value if there is one.
pub(super) fn type_or_absent(ty: Doc, absent: Option<&str>) -> Doc {
    let mut operands = vec![ty];
    operands.extend(absent.map(Doc::text));
    let or = Doc::Concat(vec![Doc::Line, Doc::text("| ")]);
    Doc::Group(Doc::joined(operands, &or))
}

fn enumeration(named: &Named, name: &str, units: &[Unit]) -> String {
    let names = naming::members(units.iter().map(|unit| unit.name.as_str()));
    let units = units.iter().zip(names).map(|(unit, member)| {
        let member = format!("    {member} = {}\n", literal(&unit.name));
        (member, docstring(&unit.docs, STEP))
    });
    let docs = documented(&named.docs, || format!("The enum {}.", quoted(&named.name)));
    class("", name, Some("enum.StrEnum"), &docs, &members(units))
}

/// Joins the members of a class, each with its documentation. A blank line separates a documented
/// one from the next.
fn members(members: impl Iterator<Item = (String, String)>) -> String {
    let (mut joined, mut is_documented) = (String::new(), false);
    for (member, docs) in members {
        if is_documented {
            joined.push('\n');
        }
        joined.push_str(&member);
        joined.push_str(&docs);
        is_documented = !docs.is_empty();
    }
    joined
}

/// Returns a class after two blank lines. Its body may be empty, but not its documentation, which
/// then is all that it has.
pub(super) fn class(decorator: &str, name: &str, base: Option<&str>, docs: &str, body: &str) -> String {
    let base = base.map(|base| format!("({base})")).unwrap_or_default();
    let body = if body.is_empty() {
        String::new()
    } else {
        format!("\n{body}")
    };
    format!(
        "\n\n{decorator}class {name}{base}:\n{}{body}",
        docstring(docs, STEP)
    )
}

fn alias(name: &str, ty: Doc, docs: &str) -> String {
    let ty = match ty {
        // A single name that does not fit is on a line of its own, in parentheses.
        Doc::Text(_) => types::parenthesized(vec![ty]),
        ty => ty,
    };
    let line = Doc::Concat(vec![Doc::text(format!("{name}: TypeAlias = ")), ty]);
    format!("\n\n{}\n{}", line.render(WIDTH, 0, STEP), docstring(docs, 0))
}

/// Returns the documentation, or what `otherwise` returns if nothing of it can be shown.
pub(super) fn documented(docs: &str, otherwise: impl FnOnce() -> String) -> String {
    if super::super::docs::lines(docs, WIDTH).is_empty() {
        otherwise()
    } else {
        docs.to_owned()
    }
}
