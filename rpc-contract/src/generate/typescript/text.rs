//! Text in TypeScript: literals, keys and comments.

use super::super::layout::Doc;
use super::super::layout::WIDTH;
use super::super::{docs, literals};

/// The columns by which a block is indented.
pub(super) const STEP: usize = 2;

/// Keeps prettier from changing the statement or member that follows, whose lines it would break in
/// another way.
const IGNORE: &str = "// prettier-ignore\n";

/// Returns a string literal.
pub(super) fn literal(text: &str) -> String {
    literals::literal(text, |wide| format!("\\u{{{wide:x}}}"))
}

/// Returns the key of a property, in quotes if it needs them.
pub(super) fn key(name: &str) -> String {
    if is_identifier(name) {
        name.to_owned()
    } else {
        literal(name)
    }
}

/// Whether a name needs no quotes as a key. Of the letters that the language allows, only those of
/// ASCII are considered.
pub(super) fn is_identifier(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && name.chars().all(is_part)
}

/// Returns the key of a property of an object literal. There, `__proto__` would set the prototype
/// if it were not in square brackets, even in quotes.
pub(super) fn key_of_value(name: &str) -> String {
    match name {
        "__proto__" => "[\"__proto__\"]".to_owned(),
        name => key(name),
    }
}

/// Returns the comment at the head of the module.
pub(super) fn comment(docs: &str) -> String {
    // `// ` takes three columns.
    let lines = docs::lines(docs, WIDTH - 3);
    let lines = lines
        .iter()
        .map(|line| format!("// {}", without_directive(line)).trim_end().to_owned() + "\n");
    lines.collect()
}

/// Escapes what the compiler could take for a directive, such as `@ts-nocheck`. Documentation may
/// come from a worker, and must not decide what is checked.
fn without_directive(line: &str) -> String {
    let is_directive = |at: usize| {
        let name = line.get(at + 1..at + 4);
        name.is_some_and(|name| name.eq_ignore_ascii_case("ts-"))
    };
    let mut escaped = String::with_capacity(line.len());
    for (at, character) in line.char_indices() {
        if character == '@' && is_directive(at) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Returns a documentation comment with this indentation, and with a line break at its end. Empty
/// if there is no documentation.
pub(super) fn jsdoc(docs: &str, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let lines = jsdoc_lines(docs, indent).into_iter();
    lines.map(|line| format!("{margin}{line}\n")).collect()
}

/// Returns the lines of a documentation comment without their indentation, for which they leave
/// `indent` columns.
pub(super) fn jsdoc_lines(docs: &str, indent: usize) -> Vec<String> {
    // `/** ` and ` */` take seven columns if the comment is on one line.
    let lines = docs::lines(docs, WIDTH - indent - 7);
    let lines: Vec<_> = lines
        .iter()
        .map(|line| without_directive(line).replace("*/", "*\\/"))
        .collect();
    match lines.as_slice() {
        [] => Vec::new(),
        [only] => vec![format!("/** {only} */")],
        lines => {
            let within = lines
                .iter()
                .map(|line| format!(" * {line}").trim_end().to_owned());
            let mut comment = vec!["/**".to_owned()];
            comment.extend(within);
            comment.push(" */".to_owned());
            comment
        }
    }
}

/// Returns lines of the module with this indentation. If one is too long, a comment tells prettier
/// to leave all of them as they are.
pub(super) fn lines(doc: &Doc, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let text = doc.render(WIDTH, indent, STEP);
    let is_too_long = format!("{margin}{text}")
        .lines()
        .any(|line| line.chars().count() > WIDTH);
    let ignore = if is_too_long {
        format!("{margin}{IGNORE}")
    } else {
        String::new()
    };
    format!("{ignore}{margin}{text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_quoted_if_they_must_be() {
        assert_eq!(
            (key("a_b1"), key("a-b"), key("1")),
            ("a_b1".into(), "\"a-b\"".into(), "\"1\"".into())
        );
        assert_eq!(
            (key(""), key_of_value("__proto__")),
            ("\"\"".into(), "[\"__proto__\"]".into())
        );
    }

    #[test]
    fn comments_end_where_they_should() {
        assert_eq!(jsdoc("", 2), "");
        assert_eq!(jsdoc("One.", 2), "  /** One. */\n");
        assert_eq!(
            jsdoc("One.\n\nTwo. */ x", 0),
            "/**\n * One.\n *\n * Two. *\\/ x\n */\n"
        );
        assert_eq!(comment("One.\n\nTwo."), "// One.\n//\n// Two.\n");
    }

    #[test]
    fn comments_are_no_directives() {
        assert_eq!(
            comment("@ts-nocheck\n@TS-ignore x@ts-y @ @t"),
            "// \\@ts-nocheck\n// \\@TS-ignore x\\@ts-y @ @t\n"
        );
        assert_eq!(jsdoc("@ts-expect-error", 0), "/** \\@ts-expect-error */\n");
    }
}
