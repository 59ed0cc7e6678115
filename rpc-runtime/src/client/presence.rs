//! Whether a queue is there: one question at a time, whoever wants to know it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

/// How long an answer counts.
const FOUND_COUNTS_FOR: Duration = Duration::from_secs(1);

/// How long it counts that there is no queue. The broker may need more than a minute to say so, and
/// each question keeps a channel until then.
const MISSING_COUNTS_FOR: Duration = Duration::from_secs(10);

/// A question, or its answer: `None` if that cannot be told.
type Looking = Shared<BoxFuture<'static, Option<bool>>>;

/// Whether a queue is there, as was last looked.
#[derive(Default)]
pub(super) struct Presence(Mutex<Last>);

#[derive(Default)]
enum Last {
    #[default]
    Nothing,
    Looking(Looking),
    Looked {
        at: Instant,
        is_there: Option<bool>,
    },
}

impl Presence {
    /// Looks whether the queue is there, unless somebody looks or just did.
    ///
    /// Cancel safe: the question is kept for the next one who wants to know.
    pub(super) async fn look(&self, look: impl FnOnce() -> BoxFuture<'static, Option<bool>>) -> Option<bool> {
        let looking = match self.ask(look) {
            Ok(looking) => looking,
            Err(known) => return known,
        };
        let is_there = looking.clone().await;
        let mut last = self.lock();
        if matches!(&*last, Last::Looking(current) if current.ptr_eq(&looking)) {
            let at = Instant::now();
            *last = Last::Looked { at, is_there };
        }
        is_there
    }

    /// The question that is to be waited for.
    ///
    /// # Errors
    ///
    /// The answer, if it is known.
    fn ask(&self, look: impl FnOnce() -> BoxFuture<'static, Option<bool>>) -> Result<Looking, Option<bool>> {
        let mut last = self.lock();
        match &*last {
            Last::Looking(looking) => return Ok(looking.clone()),
            Last::Looked { at, is_there } if at.elapsed() < counts_for(*is_there) => return Err(*is_there),
            Last::Nothing | Last::Looked { .. } => {}
        }
        let looking = look().shared();
        *last = Last::Looking(looking.clone());
        Ok(looking)
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counts_for(is_there: Option<bool>) -> Duration {
    match is_there {
        Some(false) => MISSING_COUNTS_FOR,
        Some(true) | None => FOUND_COUNTS_FOR,
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presence")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_that_give_up_leave_their_question_to_the_next() {
        let presence = Presence::default();
        let asked = Cell::new(0);
        let look = || {
            asked.set(asked.get() + 1);
            async {
                sleep(Duration::from_secs(2)).await;
                Some(false)
            }
            .boxed()
        };
        for _ in 0..30 {
            let looked = timeout(Duration::from_millis(50), presence.look(look)).await;
            assert!(looked.is_err());
        }
        assert_eq!(presence.look(look).await, Some(false));
        sleep(MISSING_COUNTS_FOR / 2).await;
        assert_eq!(presence.look(look).await, Some(false));
        assert_eq!(asked.get(), 1);
        sleep(MISSING_COUNTS_FOR).await;
        assert_eq!(presence.look(look).await, Some(false));
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_there_is_looked_for_again_after_a_second() {
        let presence = Presence::default();
        assert_eq!(presence.look(|| async { Some(true) }.boxed()).await, Some(true));
        assert_eq!(presence.look(|| async { None }.boxed()).await, Some(true));
        sleep(FOUND_COUNTS_FOR).await;
        assert_eq!(presence.look(|| async { None }.boxed()).await, None);
    }
}
