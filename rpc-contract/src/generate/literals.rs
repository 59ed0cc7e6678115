//! String literals. Both languages read the same ones, except for characters beyond the first plane
//! of Unicode.

/// Returns a string literal of ASCII alone, in the quotes that the formatters prefer: double ones,
/// unless single ones need fewer escapes. `wide` escapes a character beyond the first plane, given
/// its code point.
pub(super) fn literal(text: &str, wide: impl Fn(u32) -> String) -> String {
    let count = |quote| text.chars().filter(|c| *c == quote).count();
    let quote = if count('"') > count('\'') { '\'' } else { '"' };
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push(quote);
    for character in text.chars() {
        match (character, u32::from(character)) {
            ('\\', _) => literal.push_str("\\\\"),
            ('\n', _) => literal.push_str("\\n"),
            ('\r', _) => literal.push_str("\\r"),
            ('\t', _) => literal.push_str("\\t"),
            (character, _) if character == quote => literal.extend(['\\', quote]),
            (' '..='~', _) => literal.push(character),
            (_, code @ ..=0xff) => literal.push_str(&format!("\\x{code:02x}")),
            (_, code @ ..=0xffff) => literal.push_str(&format!("\\u{code:04x}")),
            (_, code) => literal.push_str(&wide(code)),
        }
    }
    literal.push(quote);
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_escaped() {
        for (text, expected) in [
            ("a", r#""a""#),
            ("it's", r#""it's""#),
            (r#"{"a":1}"#, r#"'{"a":1}'"#),
            (r#"'"'"#, r#""'\"'""#),
            (
                "\\ \n\r\t \0 \u{e9} \u{202e} \u{1f600}",
                r#""\\ \n\r\t \x00 \xe9 \u202e <1f600>""#,
            ),
        ] {
            assert_eq!(literal(text, |code| format!("<{code:x}>")), expected);
        }
    }
}
