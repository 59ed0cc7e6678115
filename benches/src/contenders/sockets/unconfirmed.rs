//! Messages whose confirms have not come yet.

use std::collections::VecDeque;

use anyhow::{Context as _, ensure};

/// How many messages may wait for their confirms. More are an error, so that memory is bounded if
/// the broker confirms nothing.
const LIMIT: usize = 1 << 20;

/// The messages of a channel, each with a number of ours, in the order in which they were
/// published.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    /// The broker's number of the first one, or of the next one if there is none.
    first: u64,
    /// Our number of each, and whether it is confirmed although an earlier one is not.
    messages: VecDeque<(u64, bool)>,
}

impl Unconfirmed {
    pub(super) fn new() -> Self {
        Self {
            first: 1,
            messages: VecDeque::new(),
        }
    }

    /// Adds the message that is published next.
    pub(super) fn add(&mut self, number: u64) -> anyhow::Result<()> {
        ensure!(
            self.messages.len() < LIMIT,
            "the broker does not confirm messages"
        );
        self.messages.push_back((number, false));
        Ok(())
    }

    /// Notes the confirm of a message, and of all before it if `multiple`. Removes what is
    /// confirmed from the front. Returns our number of the last message that was removed: it and
    /// all before it are confirmed. `None` if an earlier message is still unconfirmed.
    pub(super) fn confirm(&mut self, tag: u64, multiple: bool) -> anyhow::Result<Option<u64>> {
        let index = tag
            .checked_sub(self.first)
            .context("the broker confirmed a message twice")?;
        let index = usize::try_from(index)?;
        ensure!(
            index < self.messages.len(),
            "the broker confirmed a message that was not published"
        );
        let begin = if multiple { 0 } else { index };
        for (_, is_confirmed) in self.messages.range_mut(begin..=index) {
            *is_confirmed = true;
        }
        let mut last = None;
        while let Some(&(number, true)) = self.messages.front() {
            self.messages.pop_front();
            self.first += 1;
            last = Some(number);
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_without_an_earlier_unconfirmed_one_are_removed() {
        let mut unconfirmed = Unconfirmed::new();
        for number in 11..=16 {
            unconfirmed.add(number).unwrap();
        }
        assert_eq!(unconfirmed.confirm(1, false).unwrap(), Some(11));
        assert_eq!(unconfirmed.confirm(3, false).unwrap(), None);
        assert_eq!(unconfirmed.confirm(2, false).unwrap(), Some(13));
        assert_eq!(unconfirmed.confirm(5, true).unwrap(), Some(15));
        assert!(unconfirmed.confirm(5, false).is_err());
        assert!(unconfirmed.confirm(7, false).is_err());
    }
}
