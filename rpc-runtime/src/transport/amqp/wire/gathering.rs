//! Decides when the driver lets other tasks run before it writes, so that their frames leave in the
//! same write. A write costs both sides much more than a frame. Pure: no clocks, no tasks.

/// The maximum number of writes without a pause after a pause in which no frames came. The number
/// doubles with each such pause in a row: pauses would only slow down a call that is made alone.
const MAX_UNPAUSED: u32 = 64;

/// Remembers what pauses before writes have gained.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// During a pause: how many bytes there were to write before it.
    waiting_before: Option<usize>,
    /// How many writes are left without a pause.
    unpaused_left: u32,
    /// How many writes follow without a pause if the next pause gains nothing. Zero means one.
    unpaused_next: u32,
}

impl Gathering {
    /// Whether to pause before `waiting` bytes are written, so that the tasks that are ready run
    /// first. Does not pause before `enough` bytes: more would gain nothing. After `true`, the next
    /// call ends the pause and returns `false`. Must be called whenever the driver begins to work,
    /// unless a write goes on.
    pub(super) fn pauses(&mut self, waiting: usize, enough: usize) -> bool {
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
            self.unpaused_next = 0;
        } else {
            self.unpaused_left = self.unpaused_next.max(1);
            self.unpaused_next = (2 * self.unpaused_left).min(MAX_UNPAUSED);
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
            assert!(gathering.pauses(100, ENOUGH));
            assert!(!gathering.pauses(101, ENOUGH));
        }
    }

    #[test]
    fn pauses_ever_more_rarely_while_none_come() {
        let mut gathering = Gathering::default();
        assert!(gathering.pauses(100, ENOUGH));
        for unpaused in [1, 2, 4, 8, 16, 32, 64, 64] {
            // Ends the pause, without a gain.
            assert!(!gathering.pauses(100, ENOUGH));
            let writes = (0..).take_while(|_| !gathering.pauses(100, ENOUGH)).count();
            assert_eq!(writes, unpaused);
        }
        assert!(!gathering.pauses(101, ENOUGH));
        assert!(gathering.pauses(100, ENOUGH));
    }

    #[test]
    fn does_not_pause_when_there_is_nothing_to_write() {
        let mut gathering = Gathering::default();
        assert!((0..3).all(|_| !gathering.pauses(0, ENOUGH)));
        assert!(gathering.pauses(100, ENOUGH));
    }

    #[test]
    fn much_that_came_during_a_pause_is_a_gain() {
        let mut gathering = Gathering::default();
        for _ in 0..3 {
            assert!(gathering.pauses(100, ENOUGH));
            assert!(!gathering.pauses(ENOUGH, ENOUGH));
            assert!(!gathering.pauses(ENOUGH, ENOUGH));
            assert!(!gathering.pauses(0, ENOUGH));
        }
    }
}
