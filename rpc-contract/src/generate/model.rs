//! A service and its types, independent of any language.
//!
//! Everything that a description may have and a program may not, such as two methods with the same
//! name, is gone here. Names are still those on the wire.

/// A service whose methods can be called by their names.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) queue: String,
    pub(super) docs: String,
    pub(super) methods: Vec<Method>,
    pub(super) types: Types,
    /// The description, as compact JSON.
    pub(super) description: String,
}

/// A method. Its options are those of the description, without those that contradict others.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) arguments: Vec<Argument>,
    /// The type of the result, or of an item if it returns a stream. A one-way method has
    /// [`Type::Unit`].
    pub(super) returns: Type,
    pub(super) error: Option<Type>,
    /// The type of the items that it receives, if it does.
    pub(super) incoming: Option<Type>,
    pub(super) is_default: bool,
    pub(super) is_idempotent: bool,
    pub(super) is_oneway: bool,
    pub(super) is_broadcast: bool,
    pub(super) is_cancellable: bool,
    pub(super) is_streaming: bool,
    pub(super) timeout_ms: Option<u64>,
    /// The name of the argument that gets the last item of an interrupted stream.
    pub(super) resumed_by: Option<String>,
    pub(super) retry: Option<Retry>,
}

/// How a job is retried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    pub(super) times: u16,
    pub(super) min_delay_ms: u64,
    pub(super) max_delay_ms: u64,
}

#[derive(Debug)]
pub(super) struct Argument {
    pub(super) name: String,
    pub(super) ty: Type,
    /// Whether a caller may leave it out. The worker then reads `None` for an
    /// [`Option`](Type::Option), and a default for any other type.
    pub(super) is_optional: bool,
    pub(super) aliases: Vec<String>,
}

/// The type of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    Bool,
    Int(Int),
    F32,
    F64,
    /// One character.
    Char,
    Text,
    Bytes,
    /// Nothing: `()`, `null`.
    Unit,
    Option(Box<Type>),
    List(Box<Type>),
    /// At least one type.
    Tuple(Vec<Type>),
    Map(Box<Key>, Box<Type>),
    Named(TypeId),
    /// Any value.
    Any,
}

/// An integer of 8 to 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Int {
    pub(super) bits: u8,
    pub(super) is_signed: bool,
}

/// The type of a map's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Text,
    Bool,
    Int(Int),
    /// An enum of units.
    Named(TypeId),
}

/// The place of a type in [`Types`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TypeId(pub(super) usize);

/// A type with a name.
#[derive(Debug)]
pub(super) struct Named {
    /// The name in the description, or a name for a type that has none there.
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) shape: Shape,
}

#[derive(Debug)]
pub(super) enum Shape {
    Struct(Vec<Field>),
    /// Another name for a type. A struct without names of fields is one, too.
    Alias(Type),
    /// A value is the name of one of these.
    Units(Vec<Unit>),
    Enum(Tagging, Vec<Variant>),
    /// A value is one of these types: the first that fits.
    Untagged(Vec<Alternative>),
    /// A type that is known by its name in Rust only.
    Unknown,
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) ty: Type,
    pub(super) is_required: bool,
}

/// A variant of an enum of units.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) docs: String,
}

/// Where the variant's name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tagging {
    /// Outside: `{"Circle": content}`. A variant without content is only its name.
    External,
    /// In a field among those of the content.
    Internal { tag: String },
    /// In a field beside that of the content.
    Adjacent { tag: String, content: String },
}

#[derive(Debug, Clone)]
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) content: Content,
}

/// What a variant holds.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Unit,
    /// One value, which is a tuple if there are several. A variant with an internal tag has fields
    /// instead.
    Value(Type),
    Fields(Vec<Field>),
}

/// One type of an untagged enum.
#[derive(Debug, Clone)]
pub(super) struct Alternative {
    /// A name for it, which is used if it has fields.
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) content: Content,
}

/// The types with names, each under its [`TypeId`].
#[derive(Debug, Default)]
pub(super) struct Types {
    named: Vec<Named>,
    /// For each type, whether it has no value but `null`.
    is_nothing: Vec<bool>,
}

impl Method {
    /// Whether the method needs a class that holds its error, because the type of the error is no
    /// class of an error itself. `is_error` comes from [`Types::only_errors`].
    pub(super) fn needs_class_for_error(&self, is_error: &[bool]) -> bool {
        match &self.error {
            Some(Type::Named(id)) => !is_error[id.0],
            Some(_) => true,
            None => false,
        }
    }
}

impl Types {
    pub(super) fn new(named: Vec<Named>) -> Self {
        let is_nothing = find_nothing(&named);
        Self { named, is_nothing }
    }

    pub(super) fn named(&self) -> &[Named] {
        &self.named
    }

    pub(super) fn get(&self, TypeId(index): TypeId) -> &Named {
        &self.named[index]
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        (0..self.named.len()).map(TypeId)
    }

    /// Whether the type has no value but `null`.
    pub(super) fn is_nothing(&self, ty: &Type) -> bool {
        match ty {
            Type::Unit => true,
            Type::Option(inner) => self.is_nothing(inner),
            Type::Named(id) => self.is_nothing[id.0],
            _ => false,
        }
    }

    /// Calls `visit` with the type of each field, value or alternative that the declaration of this
    /// one mentions, but not with the types within those.
    pub(super) fn parts<'a>(&'a self, id: TypeId, visit: &mut dyn FnMut(&'a Type)) {
        match &self.get(id).shape {
            Shape::Struct(fields) => fields.iter().for_each(|field| visit(&field.ty)),
            Shape::Alias(ty) => visit(ty),
            Shape::Units(_) | Shape::Unknown => {}
            Shape::Enum(_, variants) => variants.iter().for_each(|it| it.content.parts(visit)),
            Shape::Untagged(alternatives) => alternatives.iter().for_each(|it| it.content.parts(visit)),
        }
    }

    /// Returns, for each type, whether it becomes the class of an error: it is the error of a
    /// method, is used nowhere else, and has fields or variants with names. A method with any other
    /// error gets a class that holds the error.
    pub(super) fn only_errors(&self, methods: &[Method]) -> Vec<bool> {
        let is_value = self.used_as_values(methods);
        let mut is_error = vec![false; self.named.len()];
        for method in methods {
            if let Some(Type::Named(id)) = method.error
                && !is_value[id.0]
            {
                let shape = &self.get(id).shape;
                is_error[id.0] = matches!(shape, Shape::Struct(_) | Shape::Units(_) | Shape::Enum(..));
            }
        }
        is_error
    }

    /// Returns, for each type, whether it is used in any other way than as the error of a method,
    /// such as within an error, even itself.
    fn used_as_values(&self, methods: &[Method]) -> Vec<bool> {
        let mut is_value = vec![false; self.named.len()];
        let mut pending = Vec::new();
        let mut use_as_value = |ty: &Type| ty.each_name(&mut |id| pending.push(id));
        for method in methods {
            method
                .arguments
                .iter()
                .for_each(|argument| use_as_value(&argument.ty));
            use_as_value(&method.returns);
            method.incoming.iter().for_each(&mut use_as_value);
            match &method.error {
                Some(Type::Named(error)) => self.parts(*error, &mut use_as_value),
                Some(error) => use_as_value(error),
                None => {}
            }
        }
        while let Some(id) = pending.pop() {
            if !std::mem::replace(&mut is_value[id.0], true) {
                self.parts(id, &mut |ty| ty.each_name(&mut |id| pending.push(id)));
            }
        }
        is_value
    }
}

/// Returns, for each type, whether it has no value but `null`.
fn find_nothing(named: &[Named]) -> Vec<bool> {
    let mut is_nothing = vec![false; named.len()];
    // For each type, those that depend on it, and on how many undecided ones it depends itself.
    let mut dependents = vec![Vec::new(); named.len()];
    let mut undecided = vec![0_usize; named.len()];
    let mut found = Vec::new();
    for (index, Named { shape, .. }) in named.iter().enumerate() {
        let Some(others) = must_be_nothing(shape) else {
            continue;
        };
        undecided[index] = others.len();
        if others.is_empty() {
            found.push(index);
        }
        for TypeId(other) in others {
            dependents[other].push(index);
        }
    }
    while let Some(index) = found.pop() {
        is_nothing[index] = true;
        for &dependent in &dependents[index] {
            undecided[dependent] -= 1;
            if undecided[dependent] == 0 {
                found.push(dependent);
            }
        }
    }
    is_nothing
}

/// Returns which other types must have no value but `null`, so that a type of this shape has no
/// other value either. `None` if it has one in any case.
fn must_be_nothing(shape: &Shape) -> Option<Vec<TypeId>> {
    let mut values = Vec::new();
    match shape {
        Shape::Alias(ty) => values.push(ty),
        Shape::Untagged(alternatives) if !alternatives.is_empty() => {
            for alternative in alternatives {
                match &alternative.content {
                    Content::Unit => {}
                    Content::Value(ty) => values.push(ty),
                    Content::Fields(_) => return None,
                }
            }
        }
        _ => return None,
    }
    let mut others = Vec::new();
    for mut ty in values {
        while let Type::Option(inner) = ty {
            ty = inner;
        }
        match ty {
            Type::Unit => {}
            Type::Named(id) => others.push(*id),
            _ => return None,
        }
    }
    Some(others)
}

impl Content {
    /// Returns the type of the value if this is a [`Value`](Self::Value).
    pub(super) fn value(&self) -> Option<&Type> {
        match self {
            Self::Value(ty) => Some(ty),
            Self::Unit | Self::Fields(_) => None,
        }
    }

    /// Calls `visit` with each type in the content.
    pub(super) fn parts<'a>(&'a self, visit: &mut dyn FnMut(&'a Type)) {
        match self {
            Self::Unit => {}
            Self::Value(ty) => visit(ty),
            Self::Fields(fields) => fields.iter().for_each(|field| visit(&field.ty)),
        }
    }
}

impl Type {
    /// Returns the type that allows `null` too.
    pub(super) fn option(self) -> Self {
        match self {
            // These may be `null` already: `None` and `Some(None)` look the same.
            Self::Option(_) | Self::Unit | Self::Any => self,
            other => Self::Option(Box::new(other)),
        }
    }

    pub(super) fn list(self) -> Self {
        Self::List(Box::new(self))
    }

    /// Calls `visit` with the id of each type with a name that occurs in this one.
    pub(super) fn each_name(&self, visit: &mut dyn FnMut(TypeId)) {
        match self {
            Self::Named(id) => visit(*id),
            Self::Option(inner) | Self::List(inner) => inner.each_name(visit),
            Self::Tuple(types) => types.iter().for_each(|ty| ty.each_name(visit)),
            Self::Map(key, value) => {
                if let Key::Named(id) = **key {
                    visit(id);
                }
                value.each_name(visit);
            }
            Self::Bool
            | Self::Int(_)
            | Self::F32
            | Self::F64
            | Self::Char
            | Self::Text
            | Self::Bytes
            | Self::Unit
            | Self::Any => {}
        }
    }
}
