//! What a module imports: only what it uses.

use std::collections::BTreeSet;

use super::super::layout::{Doc, WIDTH};
use super::super::model::{Content, Field, Key, Service, Shape, Type};
use super::naming::{self, Names};
use super::text::STEP;
use super::types::{TypeWriter, integer};

/// The names that a module may import from the package, in the order of `ruff check --select I`.
const OF_PACKAGE: [&str; 18] = [
    "F32", "I8", "I16", "I32", "I64", "I128", "U8", "U16", "U32", "U64", "U128", "UNSET", "Argument", "Char",
    "Method", "Retry", "Unset", "wire",
];

/// Names that a module uses, and has to import only then. `enum` is the module `enum`.
#[derive(Debug, Default)]
struct Uses(BTreeSet<String>);

impl Uses {
    fn add(&mut self, name: &str) {
        self.0.insert(name.to_owned());
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Adds what a type uses.
    fn add_type(&mut self, ty: &Type) {
        match ty {
            Type::Int(int) => self.add(&integer(*int)),
            Type::F32 => self.add("F32"),
            Type::Char => self.add("Char"),
            Type::Any => self.add("Any"),
            Type::Option(inner) | Type::List(inner) => self.add_type(inner),
            Type::Tuple(types) => types.iter().for_each(|ty| self.add_type(ty)),
            Type::Map(key, value) => {
                if let Key::Int(int) = **key {
                    self.add(&integer(int));
                }
                self.add_type(value);
            }
            Type::Bool | Type::F64 | Type::Text | Type::Bytes | Type::Unit | Type::Named(_) => {}
        }
    }

    fn add_fields(&mut self, fields: &[Field], is_error: bool) {
        for (field, name) in fields.iter().zip(naming::fields(fields, is_error)) {
            self.add_type(&field.ty);
            if field.name != name {
                self.add("Annotated");
                self.add("wire");
            }
            if !field.is_required {
                self.add_absent(&field.ty);
            }
        }
    }

    /// Adds what is used because a value of the type may be left out: see `declarations::absent`.
    fn add_absent(&mut self, ty: &Type) {
        match ty {
            Type::Option(_) | Type::Unit => {}
            Type::Any => self.add("UNSET"),
            _ => ["UNSET", "Unset"].iter().for_each(|name| self.add(name)),
        }
    }

    fn add_content(&mut self, content: &Content, is_error: bool) {
        match content {
            Content::Unit => {}
            Content::Value(ty) => self.add_type(ty),
            Content::Fields(fields) => self.add_fields(fields, is_error),
        }
    }
}

/// Returns the imports, and the blank line before them.
pub(super) fn imports(service: &Service, names: &Names) -> String {
    let uses = uses(service, names);
    let mut imports = "\nfrom __future__ import annotations\n".to_owned();
    let mut standard = String::new();
    if !service.methods.is_empty() {
        standard.push_str("import abc\n");
    }
    if uses.has("enum") {
        standard.push_str("import enum\n");
    }
    if uses.has("AsyncIterator") {
        standard.push_str("from collections.abc import AsyncIterator\n");
    }
    let typing = ["Annotated", "Any", "TypeAlias"]
        .iter()
        .filter(|name| uses.has(name));
    let typing: Vec<_> = typing.copied().collect();
    if !typing.is_empty() {
        standard.push_str(&format!("from typing import {}\n", typing.join(", ")));
    }
    if !standard.is_empty() {
        imports.push('\n');
        imports.push_str(&standard);
    }
    imports.push_str("\nimport rpc_runtime\n");
    let package = OF_PACKAGE.iter().filter(|name| uses.has(name));
    let package: Vec<_> = package.map(|name| Doc::text(*name)).collect();
    if !package.is_empty() {
        imports.push_str(&import_from(package));
    }
    imports
}

fn import_from(names: Vec<Doc>) -> String {
    let within = Doc::joined(names, &Doc::Concat(vec![Doc::text(","), Doc::Line]));
    let import = Doc::Group(vec![
        Doc::text("from rpc_runtime import "),
        Doc::IfBroken("("),
        Doc::Indent(vec![Doc::SoftLine, Doc::Concat(within), Doc::IfBroken(",")]),
        Doc::SoftLine,
        Doc::IfBroken(")"),
    ]);
    format!("{}\n", import.render(WIDTH, 0, STEP))
}

/// Finds the names that the module uses. Must distinguish the same cases as the functions that
/// write the module.
fn uses(service: &Service, names: &Names) -> Uses {
    let mut uses = Uses::default();
    let writer = TypeWriter::new(service, names);
    // In an alias, `TypeWriter` writes `Any` for a type that is not declared yet.
    if !writer.order.unmet.is_empty() {
        uses.add("Any");
    }
    for id in service.types.ids() {
        let is_error = names.is_error[id.0];
        match &service.types.get(id).shape {
            Shape::Struct(fields) => uses.add_fields(fields, is_error),
            Shape::Alias(ty) => {
                uses.add("TypeAlias");
                uses.add_type(ty);
            }
            Shape::Units(_) if is_error => {}
            Shape::Units(_) => uses.add("enum"),
            Shape::Enum(_, variants) => {
                if !is_error {
                    uses.add("TypeAlias");
                }
                variants
                    .iter()
                    .for_each(|variant| uses.add_content(&variant.content, is_error));
            }
            Shape::Untagged(alternatives) => {
                uses.add("TypeAlias");
                let contents = alternatives.iter().map(|alternative| &alternative.content);
                contents.for_each(|content| uses.add_content(content, is_error));
            }
            Shape::Unknown => ["Any", "TypeAlias"].iter().for_each(|name| uses.add(name)),
        }
    }
    for (method, names) in service.methods.iter().zip(&names.methods) {
        uses.add("Method");
        for argument in &method.arguments {
            uses.add("Argument");
            uses.add_type(&argument.ty);
            if argument.is_optional {
                uses.add_absent(&argument.ty);
            }
        }
        uses.add_type(&method.returns);
        method.incoming.iter().for_each(|item| uses.add_type(item));
        if let (Some(error), Some(_)) = (&method.error, &names.failure) {
            uses.add_type(error);
        }
        if method.retry.is_some() {
            uses.add("Retry");
        }
        if method.is_streaming || method.incoming.is_some() {
            uses.add("AsyncIterator");
        }
    }
    uses
}
