//! Collects the types with names: those of definitions, of Rust, and of schemas within others.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::Value;

use super::super::model::{Named, Shape, TypeId, Types};
use super::rust_type::RustType;
use crate::ServiceDescription;

/// The limit on the types with names. Further ones may be any value.
const MAX_TYPES: usize = 10_000;

/// The limit on schemas that are looked at. Types that are read later may be any value.
const MAX_STEPS: usize = 1_000_000;

/// Reads types, and collects those that have names.
pub(super) struct Reader<'a> {
    pub(super) definitions: &'a BTreeMap<String, Value>,
    types: Vec<Named>,
    by_definition: HashMap<String, TypeId>,
    /// Types known by their spelling only, under its [words](RustType::words).
    by_words: HashMap<String, TypeId>,
    /// Definitions that something refers to and that are still to be read.
    pending: VecDeque<(TypeId, &'a Value)>,
    steps_left: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(description: &'a ServiceDescription) -> Self {
        Self {
            definitions: &description.definitions,
            types: Vec::new(),
            by_definition: HashMap::new(),
            by_words: HashMap::new(),
            pending: VecDeque::new(),
            steps_left: MAX_STEPS,
        }
    }

    /// Reads the definitions that types refer to, and returns all types.
    pub(super) fn finish(mut self) -> Types {
        while let Some((id, schema)) = self.pending.pop_front() {
            let name = self.types[id.0].name.clone();
            self.types[id.0].shape = self.shape(schema, &name);
        }
        Types::new(self.types)
    }

    /// Takes the step that looking at a schema needs. Returns `false` if none is left.
    pub(super) fn take_step(&mut self) -> bool {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.steps_left > 0
    }

    /// Returns the type of the definition with this name, or `None` if there is none, or if there
    /// are too many types.
    pub(super) fn definition(&mut self, name: &str) -> Option<TypeId> {
        if let Some(&id) = self.by_definition.get(name) {
            return Some(id);
        }
        let schema = self.definitions.get(name)?;
        let id = self.add(Named {
            name: name.to_owned(),
            docs: crate::keywords::docs(schema),
            // Until `finish` reads it: types may refer to each other.
            shape: Shape::Unknown,
        })?;
        self.by_definition.insert(name.to_owned(), id);
        self.pending.push_back((id, schema));
        Some(id)
    }

    /// Returns the definition of the type in Rust with this name, without its path. `None` if there
    /// is none, or if it may be that of another type: of several types with the same name, schemars
    /// numbers all but the first.
    pub(super) fn unambiguous_definition(&self, name: &str) -> Option<&'a Value> {
        let is_ambiguous = self.definitions.contains_key(&format!("{name}2"));
        self.definitions.get(name).filter(|_| !is_ambiguous)
    }

    /// Returns the type of which only the name in Rust is known. Two with the same words are one.
    pub(super) fn unknown(&mut self, rust: &RustType) -> Option<TypeId> {
        self.get_or_add(&rust.words(), || {
            let docs = format!("The type `{rust}` of Rust. Its form is not described.");
            (Shape::Unknown, docs)
        })
    }

    /// Returns the type whose spelling in Rust has these words. If there is none, adds one with the
    /// words as its name, and with the shape and the documentation that `make` returns. `None` if
    /// there are too many types.
    pub(super) fn get_or_add(
        &mut self,
        words: &str,
        make: impl FnOnce() -> (Shape, String),
    ) -> Option<TypeId> {
        if let Some(&id) = self.by_words.get(words) {
            return Some(id);
        }
        let (shape, docs) = make();
        let name = words.to_owned();
        let id = self.add(Named { name, docs, shape })?;
        self.by_words.insert(words.to_owned(), id);
        Some(id)
    }

    /// Adds a type. Returns `None` if there are too many.
    pub(super) fn add(&mut self, named: Named) -> Option<TypeId> {
        (self.types.len() < MAX_TYPES).then(|| {
            self.types.push(named);
            TypeId(self.types.len() - 1)
        })
    }
}
