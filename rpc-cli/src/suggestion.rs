//! What somebody meant who misspelt it.

use crate::output::one_line;

/// The known name that is closest to what was typed, if one is close.
pub(crate) fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let may_differ = (typed.chars().count() / 3).max(1);
    let scored = known.into_iter().map(|name| {
        let lower = name.to_lowercase();
        // Who types the beginning means it.
        let is_beginning = typed.len() > 2 && lower.starts_with(&typed);
        let distance = strsim::osa_distance(&typed, &lower);
        (if is_beginning { distance.min(1) } else { distance }, name)
    });
    let close = scored.filter(|(distance, _)| *distance <= may_differ);
    close.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// `did you mean X?`, where something is close.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(typed, known).map(|name| format!("did you mean {}?", one_line(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_is_suggested_and_nothing_far_fetched() {
        let known = ["UserDirectory", "Library", "get_email", "count"];
        for (typed, meant) in [
            ("UserDirectry", Some("UserDirectory")),
            ("userdirectory", Some("UserDirectory")),
            ("user", Some("UserDirectory")),
            ("get_emial", Some("get_email")),
            ("cuont", Some("count")),
            ("Payments", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, known), meant, "{typed}");
        }
        assert_eq!(
            did_you_mean("cont", known).as_deref(),
            Some("did you mean count?")
        );
    }
}
