//! Text whose lines are broken where they are too long, as formatters do it.
//!
//! A [`Doc`] is laid out like Wadler's prettier printer does it: a group is on one line if it fits
//! there, else each of its own line breaks is taken.

/// The columns of a line.
pub(super) const WIDTH: usize = 100;

/// A piece of text and its possible line breaks.
#[derive(Debug, Clone)]
pub(super) enum Doc {
    Text(String),
    /// A line break, or nothing if the group is on one line.
    SoftLine,
    /// A line break, or a space if the group is on one line.
    Line,
    /// A line break. It breaks the groups around it too.
    HardLine,
    /// Writes nothing, but breaks the groups around it.
    Broken,
    /// This text if the group is on several lines, nothing if it is on one.
    IfBroken(&'static str),
    Concat(Vec<Doc>),
    /// On one line if that fits.
    Group(Vec<Doc>),
    /// Line breaks within are followed by one more step of indentation.
    Indent(Vec<Doc>),
}

impl Doc {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Returns the items in brackets: all on one line, or one on each line, each followed by a
    /// comma. `pad` separates the brackets from the items within: on one line,
    /// [`SoftLine`](Self::SoftLine) is nothing, and [`Line`](Self::Line) a space.
    pub(super) fn list(open: &str, items: Vec<Doc>, close: &str, pad: Doc) -> Self {
        if items.is_empty() {
            return Self::text(format!("{open}{close}"));
        }
        let mut within = vec![pad.clone()];
        within.extend(Self::joined(
            items,
            &Self::Concat(vec![Self::text(","), Self::Line]),
        ));
        within.push(Self::IfBroken(","));
        Self::Group(vec![
            Self::text(open),
            Self::Indent(within),
            pad,
            Self::text(close),
        ])
    }

    pub(super) fn joined(items: Vec<Doc>, separator: &Doc) -> Vec<Doc> {
        let mut joined = Vec::with_capacity(2 * items.len());
        for item in items {
            if !joined.is_empty() {
                joined.push(separator.clone());
            }
            joined.push(item);
        }
        joined
    }

    /// Returns the text. Its first line begins at the column `indent`, but the caller writes the
    /// indentation of that line. Further lines have at least this indentation; `step` is added by
    /// each [`Indent`](Self::Indent).
    pub(super) fn render(&self, width: usize, indent: usize, step: usize) -> String {
        let mut rendered = String::new();
        let mut column = indent;
        // What is still to be written, the next one last: its indentation, whether it is within a
        // group that is on one line, and the piece itself.
        let mut pending = vec![(indent, false, self)];
        while let Some((indent, is_flat, doc)) = pending.pop() {
            match doc {
                Self::Text(text) => {
                    column += text.chars().count();
                    rendered.push_str(text);
                }
                Self::SoftLine if is_flat => {}
                Self::Line if is_flat => {
                    column += 1;
                    rendered.push(' ');
                }
                Self::SoftLine | Self::Line | Self::HardLine => {
                    rendered.push('\n');
                    rendered.extend(std::iter::repeat_n(' ', indent));
                    column = indent;
                }
                Self::Broken => {}
                Self::IfBroken(_) if is_flat => {}
                Self::IfBroken(text) => {
                    column += text.len();
                    rendered.push_str(text);
                }
                Self::Concat(docs) => pending.extend(docs.iter().rev().map(|doc| (indent, is_flat, doc))),
                Self::Indent(docs) => {
                    pending.extend(docs.iter().rev().map(|doc| (indent + step, is_flat, doc)));
                }
                Self::Group(docs) => {
                    let is_flat = is_flat || fits(width.saturating_sub(column), docs, &pending);
                    pending.extend(docs.iter().rev().map(|doc| (indent, is_flat, doc)));
                }
            }
        }
        rendered
    }
}

/// Whether a group can be on one line with what follows it, up to the next possible line break:
/// nothing breaks the group, and all of it takes at most `left` columns. `after` is the `pending`
/// of [`Doc::render`].
fn fits(mut left: usize, group: &[Doc], after: &[(usize, bool, &Doc)]) -> bool {
    let mut after = after.iter().rev();
    let mut pending: Vec<_> = group.iter().rev().map(|doc| (true, doc)).collect();
    loop {
        let (is_flat, doc) = match pending.pop() {
            Some(next) => next,
            None => match after.next() {
                Some(&(_, is_flat, doc)) => (is_flat, doc),
                None => return true,
            },
        };
        let used = match doc {
            Doc::Text(text) => text.chars().count(),
            // Within the group, it breaks the group. After it, it ends the line.
            Doc::HardLine => return !is_flat,
            Doc::Broken if is_flat => return false,
            Doc::Broken => 0,
            Doc::SoftLine if is_flat => 0,
            Doc::Line if is_flat => 1,
            Doc::SoftLine | Doc::Line => return true,
            Doc::IfBroken(_) if is_flat => 0,
            Doc::IfBroken(text) => text.len(),
            Doc::Concat(docs) | Doc::Indent(docs) | Doc::Group(docs) => {
                pending.extend(docs.iter().rev().map(|doc| (is_flat, doc)));
                0
            }
        };
        match left.checked_sub(used) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[&str]) -> Doc {
        let arguments = arguments.iter().map(|argument| Doc::text(*argument)).collect();
        Doc::Concat(vec![
            Doc::text("f"),
            Doc::list("(", arguments, ")", Doc::SoftLine),
        ])
    }

    #[test]
    fn a_group_is_on_one_line_if_it_fits() {
        let call = call(&["first", "second"]);
        assert_eq!(call.render(16, 0, 4), "f(first, second)");
        assert_eq!(call.render(15, 0, 4), "f(\n    first,\n    second,\n)");
        // The column where it begins counts.
        assert_eq!(call.render(16, 1, 2), "f(\n   first,\n   second,\n )");
    }

    #[test]
    fn what_follows_the_group_counts() {
        let doc = Doc::Concat(vec![call(&["a"]), Doc::text(";")]);
        assert_eq!(doc.render(5, 0, 2), "f(a);");
        assert_eq!(doc.render(4, 0, 2), "f(\n  a,\n);");
    }

    #[test]
    fn the_outer_group_is_broken_first() {
        let inner = call(&["a", "b"]);
        let outer = Doc::list("[", vec![inner.clone(), inner], "]", Doc::SoftLine);
        assert_eq!(outer.render(12, 0, 2), "[\n  f(a, b),\n  f(a, b),\n]");
    }

    #[test]
    fn a_hard_line_breaks_its_groups() {
        let items = vec![Doc::Concat(vec![Doc::text("a"), Doc::HardLine, Doc::text("b")])];
        let list = Doc::list("[", items, "]", Doc::SoftLine);
        assert_eq!(list.render(80, 0, 2), "[\n  a\n  b,\n]");
    }

    #[test]
    fn padding_is_within_the_brackets() {
        let list = |items: &[&str]| {
            let items = items.iter().map(|item| Doc::text(*item)).collect();
            Doc::list("{", items, "}", Doc::Line).render(80, 0, 2)
        };
        assert_eq!(
            (list(&["a", "b"]), list(&[])),
            ("{ a, b }".to_owned(), "{}".to_owned())
        );
    }
}
