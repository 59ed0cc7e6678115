//! Finds letters by their ids, or by the beginnings of them. Does no I/O.

use std::collections::HashMap;

use crate::failure::Failure;
use rpc_runtime::discovery::dead_queue;

/// How many ids an error lists.
const MAX_LISTED: usize = 5;

/// Gives ids to letters in their order. An id is the letter's number (see
/// [`id_number`](super::letter::id_number)) as 16 hexadecimal digits. If several letters have the
/// same number, the second one's id ends with `-2`, and so on.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// How many letters have had each number. An entry has sixteen bytes.
    seen: HashMap<u64, u32>,
}

impl Ids {
    /// Returns the id of the next letter, which has this number.
    pub(crate) fn assign(&mut self, number: u64) -> String {
        let seen = self.seen.entry(number).or_default();
        *seen += 1;
        match *seen {
            1 => format!("{number:016x}"),
            count => format!("{number:016x}-{count}"),
        }
    }
}

/// Parses an id, or the beginning of one. Returns it in lower case.
pub(crate) fn parse_id(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let (digits, rest) = text.split_once('-').unwrap_or((&text, ""));
    let is_id = (1..=16).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        && rest.bytes().all(|digit| digit.is_ascii_digit());
    if is_id {
        Ok(text)
    } else {
        Err("an id has hexadecimal digits, as `list` shows it".to_owned())
    }
}

/// The letters that are searched for. `T` is what to keep of each.
#[derive(Debug)]
pub(crate) struct Wanted<T> {
    wanted_ids: Vec<WantedId>,
    /// What was kept of the letters that may be meant: at most two for each wanted id.
    kept: Vec<(String, T)>,
}

#[derive(Debug)]
struct WantedId {
    /// The id, or the beginning of it.
    text: String,
    /// The first [`MAX_LISTED`] of the ids that match.
    matches: Vec<String>,
    /// How many ids match.
    count: usize,
    /// Whether a letter has exactly this id. Then no other one matches.
    is_exact: bool,
}

impl<T> Wanted<T> {
    pub(crate) fn new(ids: &[String]) -> Self {
        let wanted_ids = ids.iter().map(|text| WantedId {
            text: text.clone(),
            matches: Vec::new(),
            count: 0,
            is_exact: false,
        });
        Self {
            wanted_ids: wanted_ids.collect(),
            kept: Vec::new(),
        }
    }

    /// Whether no other letter can be meant.
    pub(crate) fn is_complete(&self) -> bool {
        self.wanted_ids.iter().all(|wanted| wanted.is_exact)
    }

    /// Looks at the next letter, and keeps it if [`found`](Self::found) may have to return it.
    /// Returns whether it was kept.
    pub(crate) fn keep_if_needed(&mut self, id: &str, letter: T) -> bool {
        let mut is_needed = false;
        for wanted in &mut self.wanted_ids {
            is_needed |= wanted.add_match(id);
        }
        if is_needed {
            self.kept.push((id.to_owned(), letter));
        }
        is_needed
    }

    /// Returns the letters that were found, each once. `queue` is the request queue that the jobs
    /// were sent to.
    ///
    /// # Errors
    ///
    /// Fails if a wanted id matches no letter or, without an exact match, several.
    pub(crate) fn found(self, queue: &str) -> Result<Vec<(String, T)>, Failure> {
        let mut found_ids = Vec::new();
        for wanted in &self.wanted_ids {
            found_ids.push(wanted.found(queue)?);
        }
        let kept = self.kept.into_iter();
        Ok(kept.filter(|(id, _)| found_ids.contains(&id.as_str())).collect())
    }
}

impl WantedId {
    /// Adds a letter's id if it matches. Returns whether to keep the letter: the first one that
    /// matches, or the one whose id is exactly the wanted one.
    fn add_match(&mut self, id: &str) -> bool {
        if self.is_exact || !id.starts_with(&self.text) {
            return false;
        }
        if id == self.text {
            (self.is_exact, self.matches, self.count) = (true, vec![id.to_owned()], 1);
            return true;
        }
        self.count += 1;
        if self.matches.len() < MAX_LISTED {
            self.matches.push(id.to_owned());
        }
        self.count == 1
    }

    /// Returns the id of the only letter that matches.
    fn found(&self, queue: &str) -> Result<&str, Failure> {
        match self.matches.as_slice() {
            [] => Err(Failure::NotFound {
                message: format!("no letter in {} has the id {}", dead_queue(queue), self.text),
                hint: format!(
                    "`rpc dead {queue} list` shows the ids; another consumer or `rpc` may hold the letter at the moment"
                ),
            }),
            [only] => Ok(only),
            first => {
                let others = match self.count - first.len() {
                    0 => String::new(),
                    others => format!(" and {others} more"),
                };
                Err(Failure::usage(
                    format!("the id {} is ambiguous: {}{others}", self.text, first.join(", ")),
                    "write more digits",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_with_one_number_have_different_ids() {
        let mut ids = Ids::default();
        let shown: Vec<_> = [10, 11, 10, 10].map(|number| ids.assign(number)).into();
        assert_eq!(
            shown,
            [
                "000000000000000a",
                "000000000000000b",
                "000000000000000a-2",
                "000000000000000a-3"
            ]
        );
        for id in shown.iter().map(String::as_str).chain(["a", "0A", "00-"]) {
            assert!(parse_id(id).is_ok(), "{id}");
        }
        for bad in ["", "x", "-2", "a-b", "00000000000000000", "é"] {
            assert!(parse_id(bad).is_err(), "{bad}");
        }
    }

    fn search(ids: &[&str], letters: &[&str]) -> Result<Vec<String>, (String, u8)> {
        let ids: Vec<_> = ids.iter().map(|&id| id.to_owned()).collect();
        let mut wanted = Wanted::new(&ids);
        for id in letters {
            wanted.keep_if_needed(id, ());
        }
        match wanted.found("mail") {
            Ok(found) => Ok(found.into_iter().map(|(id, ())| id).collect()),
            Err(failure) => Err((failure.to_string(), failure.outcome() as u8)),
        }
    }

    #[test]
    fn a_letter_is_found_by_a_unique_beginning_of_its_id() {
        let letters = ["ab11", "ab12", "cd00", "cd00-2"];
        let found = |ids: &[&str]| search(ids, &letters).unwrap();
        assert_eq!(found(&["ab12"]), ["ab12"]);
        assert_eq!(found(&["ab11", "ab11", "cd00-"]), ["ab11", "cd00-2"]);
        // The whole id of one letter is the beginning of the next one's.
        assert_eq!(found(&["cd00"]), ["cd00"]);
        assert_eq!(
            search(&["ab"], &letters),
            Err(("the id ab is ambiguous: ab11, ab12".to_owned(), 2))
        );
        assert_eq!(
            search(&["ab11", "ff"], &letters),
            Err(("no letter in mail.dead has the id ff".to_owned(), 3))
        );
        let many: Vec<_> = (0..9).map(|number| format!("a{number}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(
            search(&["a"], &many)
                .unwrap_err()
                .0
                .ends_with("a3, a4 and 4 more")
        );
    }
}
