//! Decides when the driver lets other tasks run before it writes, so that their frames leave in the
//! same write. A write costs both sides much more than a frame. Pure: no clocks, no tasks.

/// After a pause in which no frames came, one write is made without a pause. The number of such
/// writes doubles, at most this often, with each further pause in a row that gains nothing: pauses
/// would only slow down a call that is made alone.
const MAX_DOUBLINGS: u32 = 6;

/// Remembers what pauses before writes have gained.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// During a pause: how many bytes there were to write before it.
    waiting_before: Option<usize>,
    /// How many writes are left without a pause.
    unpaused_left: u32,
    /// How many pauses in a row have gained nothing, but at most [`MAX_DOUBLINGS`].
    useless_pauses: u32,
}

impl Gathering {
    /// Begins a pause before `waiting` bytes are written, if that may gain something. Returns
    /// whether the pause has begun. The next call then ends it, and returns `false`.
    ///
    /// Must be called whenever the driver begins to work, unless a write goes on. No pause begins
    /// before `enough` bytes: they fill a write.
    pub(super) fn try_pause(&mut self, waiting: usize, enough: usize) -> bool {
        if let Some(before) = self.waiting_before.take() {
            self.end_pause(waiting > before);
            return false;
        }
        if waiting == 0 || waiting >= enough {
            return false;
        }
        if self.unpaused_left > 0 {
            self.unpaused_left -= 1;
            return false;
        }
        self.waiting_before = Some(waiting);
        true
    }

    fn end_pause(&mut self, has_gained: bool) {
        if has_gained {
            self.useless_pauses = 0;
        } else {
            self.unpaused_left = 1 << self.useless_pauses;
            self.useless_pauses = (self.useless_pauses + 1).min(MAX_DOUBLINGS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: usize = 1000;

    #[test]
    fn pauses_before_each_write_while_frames_come() {
        let mut gathering = Gathering::default();
        for _ in 0..3 {
            assert!(gathering.try_pause(100, ENOUGH));
            assert!(!gathering.try_pause(101, ENOUGH));
        }
    }

    #[test]
    fn pauses_ever_more_rarely_while_none_come() {
        let mut gathering = Gathering::default();
        assert!(gathering.try_pause(100, ENOUGH));
        for unpaused in [1, 2, 4, 8, 16, 32, 64, 64] {
            // Ends the pause, without a gain.
            assert!(!gathering.try_pause(100, ENOUGH));
            let writes = (0..).take_while(|_| !gathering.try_pause(100, ENOUGH)).count();
            assert_eq!(writes, unpaused);
        }
        assert!(!gathering.try_pause(101, ENOUGH));
        assert!(gathering.try_pause(100, ENOUGH));
    }

    #[test]
    fn does_not_pause_when_there_is_nothing_to_write() {
        let mut gathering = Gathering::default();
        assert!((0..3).all(|_| !gathering.try_pause(0, ENOUGH)));
        assert!(gathering.try_pause(100, ENOUGH));
    }

    #[test]
    fn much_that_came_during_a_pause_is_a_gain() {
        let mut gathering = Gathering::default();
        for _ in 0..3 {
            assert!(gathering.try_pause(100, ENOUGH));
            assert!(!gathering.try_pause(ENOUGH, ENOUGH));
            assert!(!gathering.try_pause(ENOUGH, ENOUGH));
            assert!(!gathering.try_pause(0, ENOUGH));
        }
    }
}
