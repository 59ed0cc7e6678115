//! The name of a project, which becomes names of packages, crates, programs and a queue.

use std::str::FromStr;

/// crates.io allows packages 64 characters, and no suffix is longer than `-worker`.
const MAX_LENGTH: usize = 64 - "-worker".len();

/// What `cargo new` refuses or warns of: words of Rust, crates of the standard library, and names
/// that Windows does not allow for files.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "aux",
    "become",
    "box",
    "break",
    "com1",
    "com2",
    "com3",
    "com4",
    "com5",
    "com6",
    "com7",
    "com8",
    "com9",
    "con",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "lpt1",
    "lpt2",
    "lpt3",
    "lpt4",
    "lpt5",
    "lpt6",
    "lpt7",
    "lpt8",
    "lpt9",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "nul",
    "override",
    "priv",
    "prn",
    "proc-macro",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// A name that makes valid names of packages, with which neither rustc nor rustfmt finds fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProjectName(String);

/// Why a text is not the name of a project.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidProjectName {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_LENGTH} characters, and cargo's packages are called NAME-worker")]
    TooLong,
    #[error("it must begin with a lower-case letter from a to z")]
    Start,
    #[error("{0:?} is not allowed: only lower-case letters from a to z, digits, `-` and `_` are")]
    Character(char),
    #[error("`-` and `_` are allowed only between letters or digits, one at a time")]
    Separator,
    #[error("the word has a meaning of its own for Rust, cargo or Windows")]
    Reserved,
}

impl ProjectName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what the names of the crates begin with in Rust.
    pub(crate) fn identifier(&self) -> String {
        self.0.replace('-', "_")
    }
}

impl FromStr for ProjectName {
    type Err = InvalidProjectName;

    fn from_str(name: &str) -> Result<Self, InvalidProjectName> {
        let is_separator = |character| matches!(character, '-' | '_');
        let first = name.chars().next().ok_or(InvalidProjectName::Empty)?;
        let is_allowed = |character: char| {
            character.is_ascii_lowercase() || character.is_ascii_digit() || is_separator(character)
        };
        if let Some(other) = name.chars().find(|character| !is_allowed(*character)) {
            return Err(InvalidProjectName::Character(other));
        }
        if !first.is_ascii_lowercase() {
            return Err(InvalidProjectName::Start);
        }
        if name.len() > MAX_LENGTH {
            return Err(InvalidProjectName::TooLong);
        }
        if name.split(is_separator).any(str::is_empty) {
            return Err(InvalidProjectName::Separator);
        }
        if RESERVED.contains(&name) {
            return Err(InvalidProjectName::Reserved);
        }
        Ok(Self(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages_are_accepted() {
        let longest = "a".repeat(57);
        for name in [
            "shop",
            "user-directory",
            "a",
            "v2",
            "a_b-c",
            "rpc",
            longest.as_str(),
        ] {
            assert_eq!(name.parse::<ProjectName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn identifiers_have_underscores() {
        let name: ProjectName = "user-directory_2".parse().unwrap();
        assert_eq!(name.identifier(), "user_directory_2");
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        use InvalidProjectName::{Character, Empty, Reserved, Separator, Start, TooLong};

        let too_long = "a".repeat(58);
        for (name, reason) in [
            ("", Empty),
            (too_long.as_str(), TooLong),
            ("2shop", Start),
            ("-shop", Start),
            ("_shop", Start),
            ("Shop", Character('S')),
            ("größe", Character('ö')),
            ("a b", Character(' ')),
            ("../shop", Character('.')),
            ("a/b", Character('/')),
            ("a\\b", Character('\\')),
            ("a\nb", Character('\n')),
            ("shop-", Separator),
            ("shop_", Separator),
            ("a--b", Separator),
            ("a-_b", Separator),
            ("fn", Reserved),
            ("test", Reserved),
            ("proc-macro", Reserved),
            ("nul", Reserved),
        ] {
            assert_eq!(name.parse::<ProjectName>(), Err(reason), "{name}");
        }
    }
}
