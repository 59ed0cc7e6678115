//! Prints types as rustfmt does, but always on one line.
//!
//! Tokens do not keep the spaces of the source. Their `Display` puts spaces around most of them.
//! What is rare in types, such as `N % 2` in a constant expression, may have other spaces than
//! rustfmt's.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::ToTokens;

/// The type on one line.
pub(crate) fn of(ty: &impl ToTokens) -> String {
    let mut text = Text::default();
    text.push_all(ty.to_token_stream());
    text.written
}

/// The kind of the last token printed. It decides whether the next one has a space before it.
#[derive(Clone, Copy, Default, PartialEq)]
enum Last {
    /// The beginning, or a token without a space after it, such as `(`, `<`, `&` or `:`.
    #[default]
    NoSpace,
    /// A name or a literal.
    Word,
    /// A closing bracket, also `>`.
    Closed,
    /// A comma, a semicolon, a binary operator or `->`.
    Separator,
}

#[derive(Default)]
struct Text {
    written: String,
    last: Last,
}

impl Text {
    /// Prints tokens. `->` is printed as a whole, with spaces around it. Other tokens of two
    /// characters, such as `::`, are printed as two.
    fn push_all(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.push_group(&group),
                TokenTree::Ident(word) => self.push_word(&word.to_string()),
                TokenTree::Literal(word) => self.push_word(&word.to_string()),
                TokenTree::Punct(first) => {
                    let next = match tokens.peek() {
                        Some(TokenTree::Punct(second)) => Some(second.as_char()),
                        _ => None,
                    };
                    if (first.as_char(), next) == ('-', Some('>')) {
                        tokens.next();
                        self.push_operator("->");
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
        self.push(open, self.last == Last::Separator, Last::NoSpace);
        self.push_all(group.stream());
        self.push(close, false, Last::Closed);
    }

    fn push_word(&mut self, word: &str) {
        self.push(word, self.last != Last::NoSpace, Last::Word);
    }

    /// Prints a binary operator or `->` after a space. The next token prints the space after it.
    fn push_operator(&mut self, operator: &str) {
        self.push(operator, true, Last::Separator);
    }

    fn push_punct(&mut self, punct: char) {
        let text = punct.encode_utf8(&mut [0; 4]).to_owned();
        let has_left_operand = matches!(self.last, Last::Word | Last::Closed);
        match punct {
            ',' | ';' => self.push(&text, false, Last::Separator),
            '>' => self.push(&text, false, Last::Closed),
            // A lifetime has the same spaces before it as a word.
            '\'' => self.push(&text, self.last != Last::NoSpace, Last::NoSpace),
            '=' | '+' => self.push_operator(&text),
            '*' | '-' | '/' if has_left_operand => self.push_operator(&text),
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
            "Cow<'_, str>",
            "[u8; 32]",
            "*const T",
            "Vec<Option<User>>",
            "HashMap<String, Vec<Vec<u8>>>",
            "std::collections::BTreeMap<u8, (A, &B)>",
            "::core::option::Option<T>",
            "<Vec<T> as IntoIterator>::Item",
            "(A, <T as Trait<'static, U>>::Out)",
            "Buffer<{ N + 1 }, -1, 'a', \"text\">",
            "Buffer<{ N - 1 }>",
            "fn(u8, &str) -> u8",
            "Box<dyn for<'a> Fn(&'a str) -> &'a str + Send + 'static>",
            "dyn Iterator<Item = u8>",
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
