//! Prints types as rustfmt does, but always on one line.
//!
//! Tokens do not keep the spaces of the source. Their `Display` puts spaces around most of them.
//! What is rare in types, such as `N < 2` in a constant expression, may have other spaces than
//! rustfmt's.

use proc_macro2::{Delimiter, Group, Ident, Punct, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

/// The type on one line.
pub(crate) fn of(ty: &impl ToTokens) -> String {
    let mut text = Text::default();
    text.push_all(ty.to_token_stream());
    text.written
}

/// Keywords in types that have a space after them whatever follows.
const SPACED_KEYWORDS: [&str; 5] = ["as", "const", "dyn", "impl", "mut"];

/// The kind of the last token printed. It decides whether the next one has a space before it.
#[derive(Clone, Copy, Default, PartialEq)]
enum Last {
    /// The beginning, or a token without a space after it, such as `(`, `<`, `&` or `::`.
    #[default]
    NoSpace,
    /// A name or a literal.
    Word,
    /// A closing bracket, also `>`.
    Closed,
    /// A token with a space after it: a comma, a semicolon, a colon, a binary operator, `->`, a
    /// lifetime, or one of the [`SPACED_KEYWORDS`].
    Separator,
}

#[derive(Default)]
struct Text {
    written: String,
    last: Last,
}

impl Text {
    fn push_all(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.push_group(&group),
                TokenTree::Ident(word) => self.push_word(&word.to_string()),
                TokenTree::Literal(word) => self.push_word(&word.to_string()),
                TokenTree::Punct(first) => {
                    let has_printed_next = match tokens.peek() {
                        Some(TokenTree::Punct(second)) => self.push_pair(&first, second.as_char()),
                        Some(TokenTree::Ident(name)) if first.as_char() == '\'' => self.push_lifetime(name),
                        _ => false,
                    };
                    if has_printed_next {
                        tokens.next();
                    } else {
                        self.push_punct(first.as_char());
                    }
                }
            }
        }
    }

    fn push_group(&mut self, group: &Group) {
        let (open, close) = match group.delimiter() {
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::Bracket => ("[", "]"),
            Delimiter::Brace => ("{ ", " }"),
            // `macro_rules!` puts invisible delimiters around a `$ty`.
            Delimiter::None => return self.push_all(group.stream()),
        };
        // A brace also has a space before it after a name, as in `Pair { .. }`.
        let space_before = match group.delimiter() {
            Delimiter::Brace => self.last != Last::NoSpace,
            _ => self.last == Last::Separator,
        };
        self.push(open, space_before, Last::NoSpace);
        self.push_all(group.stream());
        self.push(close, false, Last::Closed);
    }

    fn push_word(&mut self, word: &str) {
        let last = if SPACED_KEYWORDS.contains(&word) {
            Last::Separator
        } else {
            Last::Word
        };
        self.push(word, self.last != Last::NoSpace, last);
    }

    fn push_lifetime(&mut self, name: &Ident) -> bool {
        self.push(&format!("'{name}"), self.last != Last::NoSpace, Last::Separator);
        true
    }

    /// Prints two characters if they are one token, and returns whether they are. `<<` and `>>` are
    /// not: they are brackets in most types.
    fn push_pair(&mut self, first: &Punct, second: char) -> bool {
        if first.spacing() == Spacing::Alone {
            return false;
        }
        let pair = String::from_iter([first.as_char(), second]);
        match pair.as_str() {
            "::" => self.push("::", self.last == Last::Separator, Last::NoSpace),
            "->" | "=>" | "==" | "!=" | "<=" | ">=" => self.push_operator(&pair),
            "&&" | "||" if self.has_left_operand() => self.push_operator(&pair),
            _ => return false,
        }
        true
    }

    /// Whether an operand precedes the next token. A `*`, for instance, is a binary operator then.
    fn has_left_operand(&self) -> bool {
        matches!(self.last, Last::Word | Last::Closed)
    }

    /// Prints a binary operator or `->` after a space. The next token prints the space after it.
    fn push_operator(&mut self, operator: &str) {
        self.push(operator, true, Last::Separator);
    }

    fn push_punct(&mut self, punct: char) {
        let text = punct.to_string();
        match punct {
            ',' | ';' | ':' => self.push(&text, false, Last::Separator),
            '>' => self.push(&text, false, Last::Closed),
            '=' | '+' => self.push_operator(&text),
            '*' | '-' | '/' | '%' | '^' | '&' | '|' if self.has_left_operand() => self.push_operator(&text),
            // `<`, or a prefix such as `&`.
            _ => self.push(&text, self.last == Last::Separator, Last::NoSpace),
        }
    }

    fn push(&mut self, text: &str, space_before: bool, last: Last) {
        if space_before {
            self.written.push(' ');
        }
        self.written.push_str(text);
        self.last = last;
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::{Delimiter, Group};
    use quote::quote;

    #[test]
    fn prints_types_as_rustfmt_does() {
        for ty in [
            "u8",
            "()",
            "(u8,)",
            "(u8, String)",
            "&str",
            "&[u8]",
            "&'static str",
            "&mut T",
            "&mut &T",
            "&mut [u8]",
            "&&T",
            "&'a &'static [u8]",
            "&'a (u8, u8)",
            "Cow<'_, str>",
            "[u8; 32]",
            "*const T",
            "*const *mut T",
            "Option<*const [u8]>",
            "Vec<Option<User>>",
            "HashMap<String, Vec<Vec<u8>>>",
            "std::collections::BTreeMap<u8, (A, &B)>",
            "::core::option::Option<T>",
            "<Vec<T> as IntoIterator>::Item",
            "(A, <T as Trait<'static, U>>::Out)",
            "Buffer<{ N + 1 }, -1, 'a', \"text\">",
            "Buffer<{ N - 1 }>",
            "Buffer<{ N % 2 }>",
            "Flag<{ N == 1 }>",
            "Flag<{ N != 1 || N <= 2 && !B }>",
            "Flag<{ N | 1 ^ M & 3 >= 4 }>",
            "Size<{ Pair { a: 1, b: &N } }>",
            "fn(u8, &str) -> u8",
            "Box<dyn for<'a> Fn(&'a str) -> &'a str + Send + 'static>",
            "dyn Iterator<Item = u8>",
            "dyn ::core::fmt::Debug",
            "impl Iterator<Item: Send + ?Sized>",
            "r#type::r#Match",
            "Size<{ size_of::<T>() * 2 }>",
            "!",
        ] {
            let tokens: proc_macro2::TokenStream = ty.parse().unwrap();
            assert_eq!(super::of(&tokens), ty);
        }
    }

    #[test]
    fn prints_no_invisible_delimiters() {
        let ty = Group::new(Delimiter::None, quote!(Option<u8>));
        assert_eq!(super::of(&quote!(Vec<#ty>)), "Vec<Option<u8>>");
    }
}
