//! Names for generated code and for the titles of schemas, made from the names in a description.
//! A name without ASCII letters and digits becomes the `fallback`.

use std::collections::HashMap;

/// The limit on the length of a converted name. Longer ones are cut. What [`Scope::add`] and
/// callers append comes on top.
const MAX_LENGTH: usize = 60;

/// The names of one scope of a program: each once, and none that means something else there.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The names that mean something else in the scope, in the form that [`new`](Self::new) takes.
    reserved: &'static [&'static str],
    /// For each name that is taken, the last number that was appended to it, or 1.
    taken: HashMap<String, usize>,
}

impl Scope {
    /// Creates an empty scope with these reserved names. Each text is a list of words, separated by
    /// white space.
    pub(crate) fn new(reserved: &'static [&'static str]) -> Self {
        Self {
            reserved,
            taken: HashMap::new(),
        }
    }

    /// Takes a name and returns it as it is in this scope: a reserved one with an underscore after
    /// it, and one that is taken with a number, from 2.
    pub(crate) fn add(&mut self, mut name: String) -> String {
        if self.is_reserved(&name) {
            name.push('_');
        }
        // The second `a1` becomes `a1_2`, not `a12`.
        let ends_with_digit = name.ends_with(|last: char| last.is_ascii_digit());
        let separator = if ends_with_digit { "_" } else { "" };
        let mut candidate = name.clone();
        while self.is_reserved(&candidate) || self.taken.contains_key(&candidate) {
            let number = self.taken.entry(name.clone()).or_insert(1);
            *number += 1;
            candidate = format!("{name}{separator}{number}");
        }
        self.taken.insert(candidate.clone(), 1);
        candidate
    }

    fn is_reserved(&self, name: &str) -> bool {
        let mut words = self
            .reserved
            .iter()
            .flat_map(|list| list.split_ascii_whitespace());
        words.any(|word| word == name)
    }
}

/// Returns `get_email` for `get_email`, `getEmail` and `get-email`.
pub(crate) fn snake(name: &str, fallback: &str) -> String {
    let words: Vec<_> = words(name).iter().map(|word| word.to_ascii_lowercase()).collect();
    identifier(words.join("_"), 'n', fallback)
}

/// Returns `GET_EMAIL` for `get_email`.
pub(crate) fn screaming(name: &str, fallback: &str) -> String {
    snake(name, fallback).to_ascii_uppercase()
}

/// Returns `getEmail` for `get_email`.
pub(crate) fn camel(name: &str, fallback: &str) -> String {
    let words = words(name);
    let mut words = words.iter();
    let first = words.next().map(|word| word.to_ascii_lowercase());
    let joined = first
        .into_iter()
        .chain(words.map(|word| capitalized(word)))
        .collect();
    identifier(joined, 'n', fallback)
}

/// Returns `GetEmail` for `get_email`. Capital letters within a word stay.
pub(crate) fn pascal(name: &str, fallback: &str) -> String {
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    identifier(parts.map(capitalized).collect(), 'N', fallback)
}

/// Splits a name at everything that is no ASCII letter or digit, and before capital letters. A run
/// of capitals is one word, but its last one begins the next word if a lower-case letter follows.
fn words(name: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for part in name.split(|c: char| !c.is_ascii_alphanumeric()) {
        let (bytes, mut start) = (part.as_bytes(), 0);
        for at in 1..bytes.len() {
            let follows_capital = bytes[at - 1].is_ascii_uppercase();
            // `HTTPServer` is `HTTP` and `Server`.
            let precedes_lower = bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase);
            if bytes[at].is_ascii_uppercase() && (!follows_capital || precedes_lower) {
                words.push(&part[start..at]);
                start = at;
            }
        }
        if start < part.len() {
            words.push(&part[start..]);
        }
    }
    words
}

pub(crate) fn capitalized(word: &str) -> String {
    let mut characters = word.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

/// Returns the name, with `letter` before it if it begins with a digit, and cut if it is too long.
/// An empty one becomes the `fallback`.
fn identifier(mut name: String, letter: char, fallback: &str) -> String {
    if name.is_empty() {
        return fallback.to_owned();
    }
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.insert(0, letter);
    }
    name.truncate(MAX_LENGTH);
    // The cut may be just after an underscore.
    name.truncate(name.trim_end_matches('_').len());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_their_kind() {
        for (name, snake_case, camel_case, pascal_case) in [
            ("get_email", "get_email", "getEmail", "GetEmail"),
            ("getEmail", "get_email", "getEmail", "GetEmail"),
            ("HTTPServer", "http_server", "httpServer", "HTTPServer"),
            ("words.join", "words_join", "wordsJoin", "WordsJoin"),
            ("ZIP-code", "zip_code", "zipCode", "ZIPCode"),
            ("u128", "u128", "u128", "U128"),
            ("2nd", "n2nd", "n2nd", "N2nd"),
            ("_x_", "x", "x", "X"),
            ("größe", "gr_e", "grE", "GrE"),
            ("*/ \"\n", "value", "value", "value"),
            ("", "value", "value", "value"),
        ] {
            assert_eq!(snake(name, "value"), snake_case, "{name}");
            assert_eq!(camel(name, "value"), camel_case, "{name}");
            assert_eq!(pascal(name, "value"), pascal_case, "{name}");
        }
        assert_eq!(screaming("darkBlue", ""), "DARK_BLUE");
        assert_eq!(snake(&"x".repeat(1000), "").len(), MAX_LENGTH);
        assert_eq!(
            snake(&format!("{}_y", "x".repeat(MAX_LENGTH - 1)), "").len(),
            MAX_LENGTH - 1
        );
    }

    #[test]
    fn names_of_a_scope_differ() {
        let mut scope = Scope::new(&["class a4", "self"]);
        let mut add = |name: &str| scope.add(name.to_owned());
        assert_eq!(
            (add("a"), add("a"), add("a")),
            ("a".into(), "a2".into(), "a3".into())
        );
        assert_eq!((add("a2"), add("a")), ("a2_2".into(), "a5".into()));
        assert_eq!(
            (add("class"), add("class_"), add("class")),
            ("class_".into(), "class_2".into(), "class_3".into())
        );
    }

    #[test]
    fn many_equal_names_take_no_long_time() {
        let mut scope = Scope::new(&[]);
        let names: std::collections::HashSet<_> = (0..100_000).map(|_| scope.add("x".to_owned())).collect();
        assert_eq!(names.len(), 100_000);
    }
}
