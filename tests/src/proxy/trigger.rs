//! Decides at which byte a connection is cut.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use super::{
    link::Link,
    target::{Direction, Target, Way},
};

/// Sequences of bytes ("needles") to look for in a connection, one after the other.
///
/// A needle may span several pieces, which are what the proxy forwards at once. The search for each
/// needle begins when the previous one has been found, with the next byte in its own direction.
#[derive(Debug, Clone)]
pub struct Sight(VecDeque<Needle>);

impl Sight {
    /// Looks for these bytes on the way to the broker.
    ///
    /// # Panics
    ///
    /// Panics if there are no bytes. So do the other methods.
    pub fn to_broker(needle: impl AsRef<[u8]>) -> Self {
        Self(VecDeque::new()).then_to_broker(needle)
    }

    /// Looks for these bytes on the way from the broker.
    pub fn from_broker(needle: impl AsRef<[u8]>) -> Self {
        Self(VecDeque::new()).then_from_broker(needle)
    }

    /// Then looks for these bytes on the way to the broker.
    #[must_use]
    pub fn then_to_broker(self, needle: impl AsRef<[u8]>) -> Self {
        self.then(Way::ToBroker, needle.as_ref())
    }

    /// Then looks for these bytes on the way from the broker.
    #[must_use]
    pub fn then_from_broker(self, needle: impl AsRef<[u8]>) -> Self {
        self.then(Way::FromBroker, needle.as_ref())
    }

    fn then(mut self, way: Way, needle: &[u8]) -> Self {
        assert!(!needle.is_empty(), "there is nothing to look for");
        self.0.push_back(Needle {
            way,
            bytes: needle.into(),
            tail: Vec::new(),
        });
        self
    }
}

#[derive(Debug, Clone)]
struct Needle {
    way: Way,
    bytes: Arc<[u8]>,
    /// The end of what was searched, shorter than the needle, which may begin in it.
    tail: Vec<u8>,
}

impl Needle {
    /// Searches the next piece. Returns where in it the needle ends, if it does.
    fn end_in(&mut self, piece: &[u8]) -> Option<usize> {
        let length = self.bytes.len();
        let searched = [&self.tail, piece].concat();
        let found = searched.windows(length).position(|window| *window == *self.bytes);
        match found {
            Some(start) => Some(start + length - self.tail.len()),
            None => {
                self.tail = searched[searched.len().saturating_sub(length - 1)..].to_vec();
                None
            }
        }
    }
}

/// Where to cut in the piece with the last needle.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    /// Before the needle.
    Before,
    /// After the whole piece.
    After,
}

/// When to cut a connection. Each connection has its own copy, which tracks its bytes.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    Bytes { direction: Direction, left: u64 },
    Sight { sight: Sight, moment: Moment },
}

impl Plan {
    pub(super) fn bytes(direction: Direction, count: u64) -> Self {
        Self::Bytes {
            direction,
            left: count,
        }
    }

    pub(super) fn sight(sight: Sight, moment: Moment) -> Self {
        Self::Sight { sight, moment }
    }

    /// Tracks one more piece. Returns how many of its bytes pass before the connection is cut, or
    /// `None` if it is not cut.
    fn follow(&mut self, way: Way, piece: &[u8]) -> Option<usize> {
        match self {
            Self::Bytes { direction, left } => {
                if !direction.covers(way) {
                    return None;
                }
                let pass = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= pass as u64;
                (*left == 0).then_some(pass)
            }
            Self::Sight { sight, moment } => {
                // How many bytes of this piece were searched, and where the last needle begins: 0
                // if that is in an earlier piece.
                let mut searched = 0;
                let mut start = 0;
                while let Some(needle) = sight.0.front_mut() {
                    if needle.way != way {
                        return None;
                    }
                    searched += needle.end_in(&piece[searched..])?;
                    start = searched.saturating_sub(needle.bytes.len());
                    sight.0.pop_front();
                }
                match moment {
                    Moment::Before => Some(start),
                    Moment::After => Some(piece.len()),
                }
            }
        }
    }
}

/// A plan and the progress of each connection.
#[derive(Debug)]
pub(super) struct Trigger {
    target: Target,
    plan: Plan,
    /// What is left of the plan on each connection, by its number.
    progress: Mutex<HashMap<usize, Plan>>,
    /// The connection that is cut, once that is decided.
    pub(super) victim: watch::Sender<Option<Arc<Link>>>,
}

impl Trigger {
    pub(super) fn new(target: Target, plan: Plan) -> Self {
        Self {
            target,
            plan,
            progress: Mutex::default(),
            victim: watch::Sender::default(),
        }
    }

    /// Tracks one more piece of a connection. Returns how many of its bytes pass before the
    /// connection is cut, or `None` if it is not cut. Only one connection is ever cut.
    pub(super) fn follow(&self, link: &Arc<Link>, way: Way, piece: &[u8]) -> Option<usize> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !link.is(self.target) || self.victim.borrow().is_some() {
            return None;
        }
        let plan = progress.entry(link.number()).or_insert_with(|| self.plan.clone());
        let pass = plan.follow(way, piece)?;
        self.victim.send_replace(Some(link.clone()));
        Some(pass)
    }
}
