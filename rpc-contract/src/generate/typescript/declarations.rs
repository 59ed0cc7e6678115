//! The types of a service, their descriptors, and the errors of its methods.

use super::super::docs::quoted;
use super::super::layout::Doc;
use super::super::layout::WIDTH;
use super::super::model::{Content, Field, Named, Service, Shape, Type, TypeId};
use super::descriptors::{DescriptorWriter, with_arguments_on_lines};
use super::naming::Names;
use super::text::STEP;
use super::text::{jsdoc, jsdoc_lines, lines, literal};
use super::types::TypeWriter;

/// Returns the declarations, each after a blank line.
pub(super) fn declarations(service: &Service, names: &Names) -> String {
    let writer = Writer {
        service,
        names,
        types: TypeWriter::new(service, names),
        descriptors: DescriptorWriter::new(service, names),
    };
    let order = &writer.descriptors.order.types;
    let mut written: String = order.iter().map(|id| writer.declaration(*id)).collect();
    for (method, names) in service.methods.iter().zip(&names.methods) {
        if let (Some(error), Some(class)) = (&method.error, &names.failure) {
            let docs = format!("The error of {}.", quoted(&method.name));
            let ty = writer.types.ty(error);
            written.push_str(&error_class(&docs, class, &ty, writer.descriptors.ty(error)));
        }
    }
    written
}

struct Writer<'a> {
    service: &'a Service,
    names: &'a Names,
    types: TypeWriter<'a>,
    descriptors: DescriptorWriter<'a>,
}

impl Writer<'_> {
    /// Declares a type and its descriptor, which is a constant of the same name, or is in the class
    /// of the error.
    fn declaration(&self, id: TypeId) -> String {
        let named = self.service.types.get(id);
        let name = self.names.ty(id);
        let descriptor = self.descriptors.shape(id, &named.shape, &self.types);
        let mut written = format!("\n{}{}", jsdoc(&named.docs, 0), self.ty(id, named));
        match &self.names.errors[id.0] {
            None => written.push_str(&constant("export const", name, name, descriptor, 0)),
            Some(class) => written.push_str(&error_class(&named.docs, class, name, descriptor)),
        }
        written
    }

    /// Writes the type itself.
    fn ty(&self, id: TypeId, named: &Named) -> String {
        let name = self.names.ty(id);
        match &named.shape {
            Shape::Struct(fields) => self.interface(name, fields),
            Shape::Alias(ty) => alias(name, vec![(String::new(), Doc::text(self.types.member(id, ty)))]),
            Shape::Unknown => alias(name, vec![(String::new(), Doc::text("unknown"))]),
            Shape::Units(units) => {
                let units = units
                    .iter()
                    .map(|unit| (unit.docs.clone(), Doc::text(literal(&unit.name))));
                alias(name, units.collect())
            }
            Shape::Enum(tagging, variants) => {
                let variants = variants.iter();
                let variants = variants.map(|it| (it.docs.clone(), self.types.variant(tagging, it)));
                alias(name, variants.collect())
            }
            Shape::Untagged(alternatives) => {
                let alternatives = alternatives.iter().flat_map(|alternative| {
                    let docs = &alternative.docs;
                    match &alternative.content {
                        Content::Unit => vec![(docs.clone(), Doc::text("null"))],
                        Content::Value(ty) => members(docs, ty, |ty| self.types.member(id, ty)),
                        Content::Fields(fields) => vec![(docs.clone(), self.types.alternative(fields))],
                    }
                });
                alias(name, alternatives.collect())
            }
        }
    }

    fn interface(&self, name: &str, fields: &[Field]) -> String {
        if fields.is_empty() {
            return format!("export interface {name} {{}}\n");
        }
        let mut written = format!("export interface {name} {{\n");
        for field in fields {
            written.push_str(&jsdoc(&field.docs, STEP));
            written.push_str(&lines(
                &Doc::text(format!("{};", self.types.property(field))),
                STEP,
            ));
        }
        written.push_str("}\n");
        written
    }
}

/// Returns an alias for a union of types, each with its documentation, as prettier lays it out. If
/// only the first member has documentation, it is above the whole union. If any other has some,
/// each member is below its own, on a line that begins with `|`.
fn alias(name: &str, members: Vec<(String, Doc)>) -> String {
    let head = Doc::text(format!("export type {name} ="));
    let comment = |docs: &str| -> Vec<_> {
        let lines = jsdoc_lines(docs, STEP).into_iter();
        lines.flat_map(|line| [Doc::HardLine, Doc::Text(line)]).collect()
    };
    let members = members.into_iter().map(|(docs, member)| (comment(&docs), member));
    let (comments, members): (Vec<_>, Vec<_>) = members.unzip();
    let has_docs_within = comments.iter().skip(1).any(|comment| !comment.is_empty());
    let has_docs_of_first = comments.first().is_some_and(|comment| !comment.is_empty());
    let alias = if has_docs_within {
        let members = comments.into_iter().zip(members).flat_map(|(comment, member)| {
            let member = [Doc::HardLine, Doc::text("| "), Doc::Indent(vec![member])];
            comment.into_iter().chain(member)
        });
        vec![head, Doc::Indent(members.collect())]
    } else if has_docs_of_first {
        let mut within = comments.concat();
        within.extend([Doc::HardLine, Doc::Group(union(members))]);
        vec![head, Doc::Indent(within)]
    } else if members.len() > 1 {
        let union = Doc::Indent(vec![Doc::Line, Doc::Group(union(members))]);
        vec![Doc::Group(vec![head, union])]
    } else {
        vec![head, Doc::text(" "), Doc::Concat(members)]
    };
    lines(&Doc::Concat(vec![Doc::Concat(alias), Doc::text(";")]), 0)
}

/// Returns the parts of a union: on one line if they fit there, else each member is on a line that
/// begins with `|`.
fn union(members: Vec<Doc>) -> Vec<Doc> {
    if members.len() == 1 {
        return members;
    }
    let members = members.into_iter().map(|member| Doc::Indent(vec![member]));
    let separator = Doc::Concat(vec![Doc::Line, Doc::text("| ")]);
    let mut union = vec![Doc::IfBroken("| ")];
    union.extend(Doc::joined(members.collect(), &separator));
    union
}

/// Returns a type as the members of a union: an option is two, of which the first has the
/// documentation.
fn members(docs: &str, ty: &Type, write: impl Fn(&Type) -> String) -> Vec<(String, Doc)> {
    match ty {
        Type::Option(inner) => vec![
            (docs.to_owned(), Doc::text(write(inner))),
            (String::new(), Doc::text("null")),
        ],
        ty => vec![(docs.to_owned(), Doc::text(write(ty)))],
    }
}

/// Returns a constant with the descriptor of the type `ty`.
fn constant(keyword: &str, name: &str, ty: &str, descriptor: Doc, indent: usize) -> String {
    let head = format!("{keyword} {name}: rpc.Type<{ty}> =");
    let after_head = |descriptor: Doc| {
        let head = Doc::text(format!("{head} "));
        Doc::Concat(vec![head, descriptor, Doc::text(";")])
    };
    // Unless a layout may follow the head, prettier breaks the line after the `=`.
    let may_follow_head = |constant: &Doc| {
        let rendered = constant.render(WIDTH, indent, STEP);
        let first_line = rendered.lines().next().unwrap_or_default();
        let fits = indent + first_line.chars().count() <= WIDTH;
        fits && !is_broken_for_short_argument(&rendered)
    };
    let layouts = [Some(descriptor.clone()), with_arguments_on_lines(&descriptor)];
    let mut layouts = layouts.into_iter().flatten().map(after_head);
    if let Some(constant) = layouts.find(may_follow_head) {
        return lines(&constant, indent);
    }
    let descriptor = Doc::Concat(vec![Doc::HardLine, descriptor, Doc::text(";")]);
    let constant = Doc::Concat(vec![Doc::text(head), Doc::Indent(vec![descriptor])]);
    lines(&constant, indent)
}

/// Whether a rendered call is on three lines because of its only argument, a name or a text that is
/// short: prettier's limit is a quarter of the width.
fn is_broken_for_short_argument(rendered: &str) -> bool {
    let mut lines = rendered.lines().skip(1);
    let argument = lines.next().unwrap_or_default().trim().trim_end_matches(',');
    let is_only = lines.next().is_some_and(|line| line.trim() == ");");
    let is_name_or_text = !argument.contains(['.', '(', '{', '[']) || argument.starts_with(['"', '\'']);
    is_only && is_name_or_text && argument.len() <= WIDTH / 4
}

/// Returns the class of an error, after a blank line.
fn error_class(docs: &str, name: &str, ty: &str, descriptor: Doc) -> String {
    let head = Doc::text(format!("export class {name} extends rpc.MethodError<{ty}> {{"));
    let head = lines(&head, 0);
    let field = constant("static readonly", "type", ty, descriptor, STEP);
    format!("\n{}{head}{field}}}\n", jsdoc(docs, 0))
}

/// Returns the name of the class of a method's error, or `None` if the method cannot fail.
pub(super) fn error_name<'a>(
    error: Option<&Type>,
    failure: Option<&'a str>,
    names: &'a Names,
) -> Option<&'a str> {
    match (error, failure) {
        (_, Some(failure)) => Some(failure),
        (Some(Type::Named(id)), None) => names.errors[id.0].as_deref(),
        _ => None,
    }
}
