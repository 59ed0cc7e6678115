//! JSON within string literals.

/// Splits compact JSON into one or more parts, each of which has at most `width` columns between
/// the quotes of a literal of either language. Joined, they are the same JSON, escaped by
/// [`ascii`].
pub(super) fn chunks(json: &str, width: usize) -> Vec<String> {
    let (mut chunks, mut chunk, mut columns) = (Vec::new(), String::new(), 0);
    for character in ascii(json).chars() {
        // The literal escapes the backslash.
        let used = if character == '\\' { 2 } else { 1 };
        if columns + used > width {
            chunks.push(std::mem::take(&mut chunk));
            columns = 0;
        }
        chunk.push(character);
        columns += used;
    }
    if !chunk.is_empty() || chunks.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// Escapes single quotes, and everything that is not printable ASCII, in the strings of compact
/// JSON. A literal in single quotes then needs no escapes for quotes.
fn ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\'' | '\u{7f}'.. => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
            character => ascii.push(character),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_the_json() {
        let json = serde_json::json!({"it's": "größe \u{1f600} \n \u{7f} \\ \""}).to_string();
        let chunks = chunks(&json, 8);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.is_ascii() && chunk.len() <= 8 && !chunk.contains('\''))
        );
        let joined: serde_json::Value = serde_json::from_str(&chunks.concat()).unwrap();
        assert_eq!(joined.to_string(), json);
        assert_eq!(super::chunks("", 8), [""]);
    }
}
