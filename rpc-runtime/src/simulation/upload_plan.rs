//! Which calls of a scenario send items: what their callers send, and how their methods take it.

use std::time::Duration;

use fastrand::Rng;

use super::faults::{InjectedFault, Profile, time_near_a_fault};
use super::job_plan::Sender;
use super::stream_plan::{LONGEST_DRAINED, Pace};
use super::times::{LONG_TIMEOUT, START, millis, random_time, whole_millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedUpload {
    pub(super) sender: Sender,
    /// `None` for a call that is made after all faults are over.
    pub(super) at: Option<Duration>,
    pub(super) method: Method,
    pub(super) timeout: Duration,
    /// How many items the caller's stream yields, without one that cannot be encoded.
    pub(super) items: u64,
    /// How many bytes of padding each item has.
    pub(super) bytes: usize,
    pub(super) sending: Sending,
    /// Before which items the caller's stream waits.
    pub(super) sends: Pace,
    /// After which items the method waits.
    pub(super) takes: Pace,
    /// After how many items the method drops its stream. `None` if it reads to the end.
    pub(super) stops_after: Option<u64>,
    /// How long the method goes on after it has dropped its stream.
    pub(super) work: Duration,
    pub(super) answer: Answer,
    /// When the caller drops the call, counted from its start. `None` if it does not.
    pub(super) cancelled_after: Option<Duration>,
}

/// The method that receives the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// It is not idempotent.
    Collect,
    /// It is idempotent.
    Store,
    /// It returns a stream.
    Chat,
}

/// How the caller's stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    End,
    /// One more item follows, which cannot be encoded.
    BadItem,
    Panic,
    /// It does not end.
    Never,
}

/// How a method ends that has read enough, or to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Result,
    Error,
    Panic,
    /// It does not end.
    Never,
}

impl PlannedUpload {
    fn random(rng: &mut Rng, sender: Sender, faults: &[(Duration, InjectedFault)]) -> Self {
        let items = match rng.u8(..16) {
            0 | 1 => 0,
            2..7 => rng.u64(1..=10),
            7..15 => rng.u64(1..=200),
            // Usually more than the method has room for.
            _ => rng.u64(1_000..=2_500),
        };
        let stops_after = (rng.u8(..4) == 0).then(|| rng.u64(..=items));
        let cancelled_after = (rng.u8(..8) == 0).then(|| millis(rng, 8_000));
        let sending = match rng.u8(..12) {
            0 => Sending::BadItem,
            1 => Sending::Panic,
            2..5 if stops_after.is_some() || cancelled_after.is_some() => Sending::Never,
            _ => Sending::End,
        };
        Self {
            sender,
            at: Some(time_near_a_fault(rng, faults)),
            method: *rng
                .choice(&[Method::Collect, Method::Store, Method::Chat])
                .unwrap(),
            timeout: match rng.u8(..10) {
                0 => millis(rng, 1_000),
                1 => Duration::from_secs(1) + millis(rng, 10_000),
                _ => LONG_TIMEOUT,
            },
            items,
            bytes: match rng.u8(..16) {
                0 if items <= 200 => rng.usize(..=20_000),
                // Fourteen of them are more than the method has room for.
                1 if items <= 40 => 300_000,
                _ => rng.usize(..=20),
            },
            sending,
            sends: slow_pace(rng, items),
            takes: Pace::random(rng, items),
            stops_after,
            work: match rng.u8(..10) {
                ..6 => Duration::ZERO,
                6..9 => millis(rng, 500),
                _ => millis(rng, 4_000),
            },
            answer: match rng.u8(..8) {
                0 => Answer::Panic,
                1 => Answer::Error,
                2..5 if cancelled_after.is_some() || sender == Sender::Killed => Answer::Never,
                _ => Answer::Result,
            },
            cancelled_after,
        }
    }

    /// Whether the caller waits for the end and has time for it.
    pub(super) fn has_time(&self) -> bool {
        self.timeout >= LONG_TIMEOUT && self.cancelled_after.is_none() && self.sender != Sender::Killed
    }

    /// How many items the method takes if nothing fails.
    pub(super) fn taken(&self) -> u64 {
        self.stops_after.unwrap_or(self.items)
    }

    /// About how long the call takes at most without faults. `latency` is the scenario's.
    fn longest(&self, latency: u64) -> Duration {
        // At least a quarter of the credit (1024 items, 4 MiB) is granted at a time. A message may
        // take ten times `latency`.
        let grants = self.items / 512 + self.items * self.bytes as u64 / (1024 * 1024);
        let trips = Duration::from_millis(20 * latency) * u32::try_from(grants + 4).unwrap_or(u32::MAX);
        self.sends.total(self.items) + self.takes.total(self.items) + self.work + trips
    }
}

/// Plans calls that send items.
pub(super) fn random_uploads(
    rng: &mut Rng,
    callers: usize,
    (profile, latency): (Profile, u64),
    faults: &[(Duration, InjectedFault)],
) -> Vec<PlannedUpload> {
    let mut uploads = Vec::new();
    // A call near a hostile message is often near no other fault.
    let is_fault = |fault: &InjectedFault| !matches!(fault, InjectedFault::HostileMessage(_));
    let faults: Vec<_> = (faults.iter().filter(|(_, fault)| is_fault(fault)))
        .cloned()
        .collect();
    for _ in 0..rng.u8(1..=12) {
        let sender = match rng.u8(..6) {
            0 => Sender::Killed,
            _ => Sender::Caller(rng.usize(..callers)),
        };
        let mut planned = PlannedUpload::random(rng, sender, &faults);
        let is_kill =
            |(_, fault): &&(Duration, InjectedFault)| matches!(fault, InjectedFault::KillSender { .. });
        if sender == Sender::Killed
            && let Some((killed, _)) = faults.iter().find(is_kill)
        {
            let at = killed.saturating_sub(millis(rng, 3_000));
            planned.at = Some(whole_millis(at.max(START)));
        }
        uploads.push(planned);
    }
    for caller in 0..callers {
        let planned = PlannedUpload::random(rng, Sender::Caller(caller), &faults);
        uploads.push(PlannedUpload {
            at: None,
            timeout: LONG_TIMEOUT,
            cancelled_after: None,
            sending: match planned.sending {
                Sending::Never if planned.stops_after.is_none() => Sending::End,
                sending => sending,
            },
            answer: match planned.answer {
                Answer::Never => Answer::Result,
                answer => answer,
            },
            ..planned
        });
    }
    if profile == Profile::Calm {
        uploads.retain(|upload| upload.longest(latency) < LONGEST_DRAINED);
    }
    uploads
}

/// Returns the pace of a caller's stream, which often lasts for seconds.
fn slow_pace(rng: &mut Rng, items: u64) -> Pace {
    let (pauses, pause) = match rng.u8(..8) {
        ..3 => return Pace::FAST,
        3..6 => (40, millis(rng, 250)),
        6 => (8, millis(rng, 2_000)),
        _ => (1, millis(rng, 12_000)),
    };
    Pace::with_pauses(rng, items, pauses, pause)
}

/// Returns random faults that hit items on their way to the method: panics of the task that
/// receives them, and messages that the broker loses.
pub(super) fn random_item_faults(rng: &mut Rng) -> Vec<(Duration, InjectedFault)> {
    let mut faults = Vec::new();
    if rng.u8(..4) == 0 {
        let task = "incoming items";
        faults.resize(rng.usize(1..=4), InjectedFault::Panic { task });
    }
    if rng.u8(..3) == 0 {
        let messages = rng.usize(1..=3);
        let with_losses = faults.len() + rng.usize(1..=8);
        faults.resize(with_losses, InjectedFault::LoseItems { messages });
    }
    let at_random = |fault| (random_time(rng), fault);
    faults.into_iter().map(at_random).collect()
}
