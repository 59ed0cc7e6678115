//! Suggests the name that a user may have misspelt.

use crate::text::one_line;

const MAX_SUGGESTIONS: usize = 3;

/// Returns at most [`MAX_SUGGESTIONS`] known names that are close to what was typed, the closest
/// first.
fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let typed = typed.to_lowercase();
    let length = typed.chars().count();
    let max_errors = (length / 3).max(1);
    let scored = known.into_iter().map(|name| {
        let lower = name.to_lowercase();
        // The beginning of a name counts as one typing error at most.
        let is_prefix = length > 2 && lower.starts_with(&typed);
        let distance = strsim::osa_distance(&typed, &lower);
        let errors = if is_prefix { distance.min(1) } else { distance };
        (errors, name)
    });
    let mut close: Vec<_> = scored.filter(|(errors, _)| *errors <= max_errors).collect();
    close.sort_unstable();
    close.dedup();
    close
        .into_iter()
        .map(|(_, name)| name)
        .take(MAX_SUGGESTIONS)
        .collect()
}

/// Returns `did you mean X?`, with up to three names, or `None` if no known name is close.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let close: Vec<_> = closest(typed, known).into_iter().map(one_line).collect();
    match close.as_slice() {
        [] => None,
        [name] => Some(format!("did you mean {name}?")),
        [names @ .., last] => Some(format!("did you mean {} or {last}?", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_suggested() {
        let known = ["UserDirectory", "Library", "get_email", "count", "名前を調べる"];
        for (typed, expected) in [
            ("UserDirectry", Some("UserDirectory")),
            ("userdirectory", Some("UserDirectory")),
            ("user", Some("UserDirectory")),
            ("get_emial", Some("get_email")),
            ("cuont", Some("count")),
            ("Payments", None),
            ("", None),
            ("名", None),
        ] {
            assert_eq!(closest(typed, known).first().copied(), expected, "{typed}");
        }
        assert_eq!(
            did_you_mean("cont", known).as_deref(),
            Some("did you mean count?")
        );
    }

    #[test]
    fn few_names_are_suggested_the_closest_first() {
        let known = ["store.v3", "store.v1", "store", "store.v2", "store.v1"];
        assert_eq!(
            did_you_mean("stroe", known).as_deref(),
            Some("did you mean store?")
        );
        assert_eq!(
            did_you_mean("store.v4", known).as_deref(),
            Some("did you mean store.v1, store.v2 or store.v3?")
        );
    }
}
