//! Selects letters by their properties and headers. Does no I/O.

use std::time::{Duration, SystemTime};

use clap::Args;

use crate::dead_letters::letter::Facts;
use crate::units;

/// Selects letters by their properties and headers. A letter has to match all options.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Only letters for this method.
    #[arg(long, value_name = "NAME")]
    method: Option<String>,

    /// Only letters whose error contains this text.
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,

    /// Only letters with this reason, such as `error` or `panicked`.
    #[arg(long)]
    reason: Option<String>,

    /// Only letters that failed longer ago than this, such as 1h or 7d.
    #[arg(long, value_name = "TIME", value_parser = units::parse_age)]
    older_than: Option<Duration>,

    /// Only letters that failed within this time.
    #[arg(long, value_name = "TIME", value_parser = units::parse_age)]
    newer_than: Option<Duration>,
}

impl Filter {
    /// Whether no option is given, so that it selects all letters.
    pub(super) fn is_empty(&self) -> bool {
        let texts = [&self.method, &self.error, &self.reason];
        let times = [self.older_than, self.newer_than];
        texts.iter().all(|text| text.is_none()) && times.iter().all(Option::is_none)
    }

    /// Whether the filter selects this letter. A letter that does not say when it failed last is
    /// neither older nor newer than any limit.
    pub(super) fn selects(&self, facts: &Facts, now: SystemTime) -> bool {
        let equals = |wanted: &Option<String>, text: &Option<String>| wanted.is_none() || wanted == text;
        let error = facts.error.as_ref();
        let has_error = |wanted: &String| error.is_some_and(|error| error.contains(wanted));
        let age = facts.age(now);
        let is_older = |limit| age.is_some_and(|age| age > limit);
        let is_newer = |limit| age.is_some_and(|age| age < limit);
        equals(&self.method, &facts.method)
            && equals(&self.reason, &facts.reason)
            && self.error.as_ref().is_none_or(has_error)
            && self.older_than.is_none_or(is_older)
            && self.newer_than.is_none_or(is_newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::letter::time_at;

    #[test]
    fn a_letter_has_to_match_all_options() {
        let facts = Facts {
            method: Some("send".into()),
            reason: Some("error".into()),
            error: Some("no route to nowhere".into()),
            last_failure: Some(1_000),
            ..Facts::default()
        };
        let now = time_at(61_000).unwrap();
        let none = Filter::default();
        assert!(none.is_empty() && none.selects(&facts, now) && none.selects(&Facts::default(), now));
        let text = |text: &str| Some(text.to_owned());
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (filter, is_selected) in [
            (
                Filter {
                    method: text("send"),
                    error: text("route"),
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    method: text("send"),
                    error: text("panic"),
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    reason: text("erro"),
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    older_than: seconds(59),
                    newer_than: seconds(61),
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    older_than: seconds(60),
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    newer_than: seconds(60),
                    ..Filter::default()
                },
                false,
            ),
        ] {
            assert!(!filter.is_empty());
            assert_eq!(filter.selects(&facts, now), is_selected, "{filter:?}");
            assert!(!filter.selects(&Facts::default(), now), "{filter:?}");
        }
    }
}
