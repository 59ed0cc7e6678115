//! Reads a type as Rust spells it, such as `Option<Vec<User>>`.

use std::fmt;

use crate::names::capitalized;

/// The limit on the nesting of types.
const MAX_DEPTH: usize = 16;

/// The limit on the length of a type's text, in bytes. Longer ones are not read.
const MAX_LENGTH: usize = 4096;

/// A type in Rust, without references, lifetimes and lengths. A path has only its last part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RustType {
    /// A name with its parameters: `Vec<u8>`.
    Path(String, Vec<RustType>),
    /// The types of a tuple. None for `()`.
    Tuple(Vec<RustType>),
    Slice(Box<RustType>),
    Array(Box<RustType>),
}

impl RustType {
    /// Returns `None` if the text has none of these forms, is too long, or is nested too deeply.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let mut parser = Parser { rest: text };
        let ty = parser.ty(MAX_DEPTH)?;
        parser.rest.trim().is_empty().then_some(ty)
    }

    /// Returns the name and the parameters of a [`Path`](Self::Path).
    pub(super) fn path(&self) -> Option<(&str, &[RustType])> {
        match self {
            Self::Path(name, parameters) => Some((name, parameters)),
            Self::Tuple(_) | Self::Slice(_) | Self::Array(_) => None,
        }
    }

    /// Returns the type within options, and within pointers and wrappers that add nothing to a
    /// value.
    pub(super) fn unwrapped(&self) -> &Self {
        let mut ty = self;
        while let Some((name, [inner])) = ty.path()
            && (name == "Option" || is_transparent(name))
        {
            ty = inner;
        }
        ty
    }

    /// Returns the types of the keys and values if this is a map.
    pub(super) fn map(&self) -> Option<(&Self, &Self)> {
        match self.path()? {
            (name, [key, value, ..]) if is_map(name) => Some((key, value)),
            _ => None,
        }
    }

    /// Returns the type of the items if this is a list. A path with parameters is taken for a list
    /// of the first one.
    pub(super) fn item(&self) -> Option<&Self> {
        match self {
            Self::Path(_, parameters) => parameters.first(),
            Self::Slice(item) | Self::Array(item) => Some(item),
            Self::Tuple(_) => None,
        }
    }

    /// Returns the types if this is a tuple of this length.
    pub(super) fn tuple_of(&self, length: usize) -> Option<&[Self]> {
        match self {
            Self::Tuple(types) if types.len() == length => Some(types),
            _ => None,
        }
    }

    pub(super) fn is_u8(&self) -> bool {
        self.path() == Some(("u8", &[]))
    }

    /// Returns the words of the type, for a name: `PageUser` for `Page<User>`.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Path(name, parameters) => {
                let parameters = parameters.iter().map(|parameter| capitalized(&parameter.words()));
                format!("{name}{}", parameters.collect::<String>())
            }
            Self::Tuple(types) => types.iter().map(|ty| capitalized(&ty.words())).collect(),
            Self::Slice(item) | Self::Array(item) => item.words(),
        }
    }
}

impl fmt::Display for RustType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, types: &[Self]| {
            for (index, ty) in types.iter().enumerate() {
                let comma = if index > 0 { ", " } else { "" };
                write!(f, "{comma}{ty}")?;
            }
            Ok(())
        };
        match self {
            Self::Path(name, parameters) if parameters.is_empty() => f.write_str(name),
            Self::Path(name, parameters) => {
                write!(f, "{name}<")?;
                list(f, parameters)?;
                f.write_str(">")
            }
            Self::Tuple(types) => {
                f.write_str("(")?;
                list(f, types)?;
                f.write_str(")")
            }
            Self::Slice(item) | Self::Array(item) => write!(f, "[{item}]"),
        }
    }
}

/// Whether a value of a type with this name and one parameter is written like one of the parameter.
pub(super) fn is_transparent(name: &str) -> bool {
    let names = [
        "Arc",
        "Box",
        "Cell",
        "Cow",
        "Mutex",
        "Rc",
        "RefCell",
        "Reverse",
        "RwLock",
        "Saturating",
        "Wrapping",
    ];
    names.contains(&name)
}

pub(super) fn is_map(name: &str) -> bool {
    ["BTreeMap", "HashMap", "IndexMap"].contains(&name)
}

/// Parses a type.
struct Parser<'a> {
    /// What is left of the text.
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Parses a type that is nested at most `depth` levels deep.
    fn ty(&mut self, depth: usize) -> Option<RustType> {
        let depth = depth.checked_sub(1)?;
        while self.skip("&") {
            self.skip_lifetime();
            self.skip_word("mut");
        }
        if self.skip("(") {
            let (types, ends_with_comma) = self.types(")", depth)?;
            return Some(match types.as_slice() {
                // Parentheses around a type: a tuple of one type has a comma.
                [only] if !ends_with_comma => only.clone(),
                _ => RustType::Tuple(types),
            });
        }
        if self.skip("[") {
            return self.slice_or_array(depth);
        }
        self.path(depth)
    }

    /// Parses what follows `[`.
    fn slice_or_array(&mut self, depth: usize) -> Option<RustType> {
        let item = Box::new(self.ty(depth)?);
        if self.skip("]") {
            return Some(RustType::Slice(item));
        }
        if !self.skip(";") {
            return None;
        }
        // The length may be an expression. It ends at the first `]`.
        (_, self.rest) = self.rest.split_once(']')?;
        Some(RustType::Array(item))
    }

    fn path(&mut self, depth: usize) -> Option<RustType> {
        self.skip("::");
        let mut name = self.name()?;
        let mut parameters = Vec::new();
        loop {
            if self.skip("<") {
                (parameters, _) = self.types(">", depth)?;
            }
            if !self.skip("::") {
                return Some(RustType::Path(name.to_owned(), parameters));
            }
            // The path goes on with another name, unless parameters follow, as in `Vec::<u8>`.
            if !self.rest.trim_start().starts_with('<') {
                (name, parameters) = (self.name()?, Vec::new());
            }
        }
    }

    /// Parses types up to and with this bracket, and skips lifetimes. Also returns whether a comma
    /// is before the bracket.
    fn types(&mut self, close: &str, depth: usize) -> Option<(Vec<RustType>, bool)> {
        let (mut types, mut ends_with_comma) = (Vec::new(), false);
        while !self.skip(close) {
            if !self.skip_lifetime() {
                types.push(self.ty(depth)?);
            }
            ends_with_comma = self.skip(",");
            if !ends_with_comma {
                return self.skip(close).then_some((types, false));
            }
        }
        Some((types, ends_with_comma))
    }

    /// Skips a token, and returns whether it was there.
    fn skip(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_lifetime(&mut self) -> bool {
        self.skip("'") && self.name().is_some()
    }

    /// Skips a word of the language, if it is there.
    fn skip_word(&mut self, word: &str) {
        let before = self.rest;
        if self.name() != Some(word) {
            self.rest = before;
        }
    }

    /// Parses a name, without `r#`. A number as a parameter is taken for one.
    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let rest = rest.strip_prefix("r#").unwrap_or(rest);
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(name: &str, parameters: &[RustType]) -> RustType {
        RustType::Path(name.to_owned(), parameters.to_vec())
    }

    #[test]
    fn types_are_read() {
        let text = || path("str", &[]);
        let user = || path("User", &[]);
        for (rust, expected) in [
            ("u64", path("u64", &[])),
            ("&str", text()),
            ("&'a mut  str", text()),
            ("&mutable", path("mutable", &[])),
            ("Cow<'_, str>", path("Cow", &[text()])),
            ("Option<Vec<User>>", path("Option", &[path("Vec", &[user()])])),
            (
                "std::collections::HashMap<String, model::User,>",
                path("HashMap", &[path("String", &[]), user()]),
            ),
            ("::a::Page::<User>", path("Page", &[user()])),
            ("Result<u64>::Err", path("Err", &[])),
            ("()", RustType::Tuple(vec![])),
            ("(User)", user()),
            ("(User,)", RustType::Tuple(vec![user()])),
            ("(User, &str)", RustType::Tuple(vec![user(), text()])),
            ("&[User]", RustType::Slice(Box::new(user()))),
            ("[User; 2 * N]", RustType::Array(Box::new(user()))),
            ("r#type", path("type", &[])),
        ] {
            assert_eq!(RustType::parse(rust), Some(expected), "{rust}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "a b",
            "Vec<",
            "Vec<u8",
            "(a",
            "[u8",
            "impl Into<u8>",
            "fn(u8) -> u8",
            "dyn Any",
            "a,",
            "*/",
        ] {
            assert_eq!(RustType::parse(text), None, "{text}");
        }
        assert_eq!(RustType::parse(&"Vec<".repeat(1000)), None);
        assert_eq!(RustType::parse(&"&".repeat(MAX_LENGTH + 1)), None);
    }

    #[test]
    fn words_make_a_name() {
        let page = RustType::parse("&model::Page<(User, [u8])>").unwrap();
        assert_eq!(page.words(), "PageUserU8");
        assert_eq!(page.to_string(), "Page<(User, [u8])>");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in r"[a-z<>()\[\];:&', é]{0,24}") {
            let _ = RustType::parse(&text);
        }
    }
}
