//! Recognizes requests that are delivered again while they are in progress here, or after they have
//! ended. Pure: no I/O.
//!
//! When a connection is lost, the broker redelivers its unacknowledged messages. Their requests may
//! still be in progress here, or their replies may already be sent. A caller that lost its own
//! connection also sends `idempotent` requests again, and workers publish copies of requests: of
//! redelivered ones, to forward them, and of jobs, to move them to another queue.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use uuid::Uuid;

use crate::protocol::{
    COPY_HEADER, Headers, RESENT_BY_CALLER_AND_WORKER, RESENT_BY_WORKER, RESENT_HEADER, ShortStr,
};

/// How many ended requests are remembered. Usually, the prefetch keeps the number of requests that
/// can be redelivered below this.
const MAX_ENDED: usize = 16 * 1024;

/// What identifies a request. An id need only be unique among those of one caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey {
    reply_to: Option<ShortStr>,
    id: CorrelationId,
    /// Which copy of the request it is. The request itself and each copy end separately: the last
    /// copy once it is answered or rejected, and any other once the broker has the next copy.
    copy: CopyToken,
}

impl RequestKey {
    pub(crate) fn new(reply_to: Option<ShortStr>, id: CorrelationId) -> Self {
        Self {
            reply_to,
            id,
            copy: CopyToken::NONE,
        }
    }

    fn of_copy(self, copy: CopyToken) -> Self {
        Self { copy, ..self }
    }
}

/// A correlation id: a UUID, as callers of this library send it, or any other text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum CorrelationId {
    Uuid(Uuid),
    Text(ShortStr),
}

impl From<&ShortStr> for CorrelationId {
    fn from(id: &ShortStr) -> Self {
        match Uuid::try_parse(id.as_str()) {
            // Only the usual spelling, so that the UUID stands for one text: a batch carries it in
            // binary, and the id must be equal to that in a single message.
            Ok(uuid) if ShortStr::from_uuid(uuid) == *id => Self::Uuid(uuid),
            _ => Self::Text(id.clone()),
        }
    }
}

/// Why a request was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its caller sent it for the first time.
    New,
    /// Its caller sent it again without knowing whether the first one was handled, or a queue
    /// dead-lettered it.
    Resent,
    /// The broker redelivered it.
    Redelivered,
    /// It is a copy of a redelivered request, and a worker forwarded it. `was_resent` is whether
    /// the caller had sent the original again.
    Forwarded { was_resent: bool, copy: CopyToken },
    /// A worker moved it: it is a copy of a job that waited in a retry queue or was redelivered.
    Moved { copy: CopyToken },
}

impl Origin {
    /// Returns the origin of a request with these headers. The headers take precedence: a copy, or
    /// a request that was sent again, is still that if the broker redelivers it.
    pub(crate) fn new(is_redelivered: bool, is_dead_lettered: bool, headers: &Headers) -> Self {
        let copy = CopyToken::of(headers);
        match headers.get(RESENT_HEADER) {
            Some(RESENT_BY_WORKER) => Self::Forwarded {
                was_resent: false,
                copy,
            },
            Some(RESENT_BY_CALLER_AND_WORKER) => Self::Forwarded {
                was_resent: true,
                copy,
            },
            Some(_) => Self::Resent,
            None if copy != CopyToken::NONE => Self::Moved { copy },
            None if is_redelivered => Self::Redelivered,
            // A dead letter may come back to the queue where it ended before, and must run then.
            None if is_dead_lettered => Self::Resent,
            None => Self::New,
        }
    }

    /// Marks the headers of a copy of a redelivered request that is about to be forwarded.
    pub(crate) fn mark_forwarded(headers: &mut Headers) {
        // A copy of a job that was moved before stays a moved copy: it gets no `RESENT_HEADER`.
        let was_moved = headers.get(COPY_HEADER).is_some() && headers.get(RESENT_HEADER).is_none();
        if !was_moved {
            let resent_by = match headers.get(RESENT_HEADER) {
                None | Some(RESENT_BY_WORKER) => RESENT_BY_WORKER,
                Some(_) => RESENT_BY_CALLER_AND_WORKER,
            };
            headers.insert(ShortStr::from_static(RESENT_HEADER), resent_by.to_owned());
        }
        CopyToken::mark_new(headers);
    }

    /// Marks the headers of a copy of a job that is about to be moved to another queue.
    pub(crate) fn mark_moved(headers: &mut Headers) {
        // With this header, it would be taken for a resent or forwarded request.
        headers.remove(RESENT_HEADER);
        CopyToken::mark_new(headers);
    }
}

/// Tells the copies of one request apart, by a random token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CopyToken(u64);

impl CopyToken {
    /// The request itself.
    const NONE: Self = Self(0);

    /// Returns which copy a request with these headers is.
    fn of(headers: &Headers) -> Self {
        match headers.get(COPY_HEADER) {
            None => Self::NONE,
            // A token that cannot be read marks a copy too.
            Some(token) => Self(u64::from_str_radix(token, 16).unwrap_or(1).max(1)),
        }
    }

    /// Marks the headers of a new copy.
    fn mark_new(headers: &mut Headers) {
        let token = format!("{:016x}", fastrand::u64(1..));
        headers.insert(ShortStr::from_static(COPY_HEADER), token);
    }
}

/// How to handle a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DeliveryAction {
    /// Run it. Call [`finish`](Deduplicator::finish) or [`abandon`](Deduplicator::abandon) with
    /// this key afterwards.
    Run(RequestKey),
    /// Run it without tracking it: a different request with the same key is in progress.
    RunUntracked,
    /// Do nothing: the same request is in progress, and its end acks or rejects this delivery too.
    Join,
    /// Ack it: the request has ended here, or a copy of it was forwarded or moved.
    Ack,
    /// Reject it: the request was rejected.
    Reject,
}

/// The requests of one queue that are in progress or have ended. `D` is a delivery to ack.
#[derive(Debug)]
pub(crate) struct Deduplicator<D> {
    in_progress: HashMap<RequestKey, TrackedRequest<D>, RandomState>,
    /// The oldest come first. There is no index, because only redelivered requests and copies are
    /// searched for here, and they are rare. Any other request only adds an entry.
    ended: VecDeque<EndedRequest>,
}

#[derive(Debug)]
struct TrackedRequest<D> {
    /// The first delivery. `None` once its subscription is lost.
    first: Option<D>,
    /// Further deliveries. Those whose subscription is lost are removed.
    redelivered: Vec<D>,
    /// How it will end: [`End::Answered`] until something else is recorded.
    end: End,
}

impl<D> TrackedRequest<D> {
    fn into_deliveries(self) -> impl Iterator<Item = D> + use<D> {
        self.first.into_iter().chain(self.redelivered)
    }
}

/// A request that ended, identified by a randomly seeded 64-bit hash of its key.
#[derive(Debug, Clone, Copy)]
struct EndedRequest {
    hash: u64,
    end: End,
}

/// Which request with the same key a delivery may repeat. If it repeats one, it does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MayRepeat {
    /// None: it is another request.
    Nothing,
    /// Only one in progress.
    InProgress,
    /// One in progress, or one that has ended.
    InProgressOrEnded,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It ends here, with its reply if it gets one.
    Answered,
    /// A copy of it was forwarded or moved, and the copy is answered.
    Forwarded,
    /// It is rejected.
    Rejected,
}

impl<D> Default for Deduplicator<D> {
    fn default() -> Self {
        Self {
            in_progress: HashMap::default(),
            ended: VecDeque::new(),
        }
    }
}

impl<D> Deduplicator<D> {
    /// Returns how to handle a delivery. Keeps the delivery if that is [`DeliveryAction::Run`] or
    /// [`DeliveryAction::Join`], so that the end of the request returns it.
    pub(crate) fn add(&mut self, key: RequestKey, origin: Origin, delivery: D) -> DeliveryAction {
        match origin {
            Origin::New => self.add_with_key(key, MayRepeat::Nothing, delivery),
            Origin::Redelivered => self.add_with_key(key, MayRepeat::InProgressOrEnded, delivery),
            // Runs again even if it was answered, because its caller may have lost the reply.
            Origin::Resent => self.add_with_key(key, MayRepeat::InProgress, delivery),
            Origin::Moved { copy } => {
                self.add_with_key(key.of_copy(copy), MayRepeat::InProgressOrEnded, delivery)
            }
            Origin::Forwarded { was_resent, copy } => self.add_forwarded(key, was_resent, copy, delivery),
        }
    }

    /// Like [`add`](Self::add), for a copy that a worker forwarded. Another worker may have done so
    /// while the original, which has the key `original`, runs here or after it was answered here.
    fn add_forwarded(
        &mut self,
        original: RequestKey,
        was_resent: bool,
        copy: CopyToken,
        delivery: D,
    ) -> DeliveryAction {
        // If this worker forwards or rejects the original itself, the copy runs apart from it.
        if let Some(request) = self.in_progress.get_mut(&original)
            && request.end == End::Answered
        {
            request.redelivered.push(delivery);
            return DeliveryAction::Join;
        }
        // The caller of a resent request may have lost that answer.
        if !was_resent && self.last_end(&original) == Some(End::Answered) {
            return DeliveryAction::Ack;
        }
        // A copy with a token repeats only itself: a caller that lost its answer sends the request
        // again, without the token. Without tokens, the copies of a resent request cannot be told
        // apart, so one runs even if another has ended.
        let may_repeat = if was_resent && copy == CopyToken::NONE {
            MayRepeat::InProgress
        } else {
            MayRepeat::InProgressOrEnded
        };
        self.add_with_key(original.of_copy(copy), may_repeat, delivery)
    }

    /// Like [`add`](Self::add), for a delivery whose key also says which copy it is.
    fn add_with_key(&mut self, key: RequestKey, may_repeat: MayRepeat, delivery: D) -> DeliveryAction {
        if let Some(request) = self.in_progress.get_mut(&key) {
            if may_repeat == MayRepeat::Nothing {
                return DeliveryAction::RunUntracked;
            }
            request.redelivered.push(delivery);
            return DeliveryAction::Join;
        }
        // This searches all requests that have ended. Few deliveries may repeat one of them.
        if may_repeat == MayRepeat::InProgressOrEnded
            && let Some(end) = self.last_end(&key)
        {
            return match end {
                End::Rejected => DeliveryAction::Reject,
                End::Answered | End::Forwarded => DeliveryAction::Ack,
            };
        }
        let request = TrackedRequest {
            first: Some(delivery),
            redelivered: Vec::new(),
            end: End::Answered,
        };
        self.in_progress.insert(key.clone(), request);
        DeliveryAction::Run(key)
    }

    /// Returns how a request ended last. `None` if it has not ended here, or if that is forgotten.
    fn last_end(&self, key: &RequestKey) -> Option<End> {
        let hash = self.in_progress.hasher().hash_one(key);
        let ended = self.ended.iter().rev().find(|ended| ended.hash == hash);
        ended.map(|ended| ended.end)
    }

    /// Records that a copy of a request is about to be published. Must be called before that.
    pub(crate) fn mark_forwarded(&mut self, key: &RequestKey) {
        if let Some(request) = self.in_progress.get_mut(key) {
            request.end = End::Forwarded;
        }
    }

    /// Ends a request that is answered, forwarded, moved or rejected. Returns the deliveries to ack
    /// or reject.
    pub(crate) fn finish(&mut self, key: RequestKey) -> impl Iterator<Item = D> + use<D> {
        let request = self.in_progress.remove(&key);
        if let Some(request) = &request {
            let hash = self.in_progress.hasher().hash_one(&key);
            if self.ended.len() == MAX_ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back(EndedRequest {
                hash,
                end: request.end,
            });
        }
        request.into_iter().flat_map(TrackedRequest::into_deliveries)
    }

    /// Records that a request is about to be rejected.
    pub(crate) fn mark_rejected(&mut self, key: &RequestKey) {
        if let Some(request) = self.in_progress.get_mut(key) {
            request.end = End::Rejected;
        }
    }

    /// Whether a delivery of a request in progress can still be acked.
    pub(crate) fn has_delivery(&self, key: &RequestKey) -> bool {
        let request = self.in_progress.get(key);
        request.is_some_and(|request| request.first.is_some() || !request.redelivered.is_empty())
    }

    /// Forgets a request that is neither acked nor rejected. Returns its deliveries. The broker
    /// delivers each again once its subscription has ended.
    pub(crate) fn abandon(&mut self, key: &RequestKey) -> impl Iterator<Item = D> + use<D> {
        let request = self.in_progress.remove(key);
        request.into_iter().flat_map(TrackedRequest::into_deliveries)
    }

    /// Forgets the deliveries of a lost subscription. They can no longer be acked.
    pub(crate) fn forget_deliveries(&mut self, is_lost: impl Fn(&D) -> bool) {
        for request in self.in_progress.values_mut() {
            request.first.take_if(|delivery| is_lost(delivery));
            request.redelivered.retain(|delivery| !is_lost(delivery));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DeliveryAction::{Ack, Join, Reject, RunUntracked};
    use super::*;

    fn key(id: &'static str) -> RequestKey {
        RequestKey::new(
            Some(ShortStr::from_static("amq.gen-1")),
            CorrelationId::Text(ShortStr::from_static(id)),
        )
    }

    fn numbered(n: usize) -> RequestKey {
        RequestKey::new(None, CorrelationId::Text(ShortStr::new(n.to_string()).unwrap()))
    }

    fn ended(deduplicator: &mut Deduplicator<i32>, key: RequestKey) -> Vec<i32> {
        deduplicator.finish(key).collect()
    }

    fn run(id: &'static str) -> DeliveryAction {
        DeliveryAction::Run(key(id))
    }

    fn copy(id: &'static str) -> DeliveryAction {
        DeliveryAction::Run(key(id).of_copy(CopyToken(1)))
    }

    const A_COPY: Origin = forwarded(false, 1);

    const fn forwarded(was_resent: bool, copy: u64) -> Origin {
        Origin::Forwarded {
            was_resent,
            copy: CopyToken(copy),
        }
    }

    #[test]
    fn a_redelivery_joins_the_request_in_progress() {
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("a"), Origin::New, 1), run("a"));
        deduplicator.forget_deliveries(|_| true);
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 2), Join);
        assert_eq!(deduplicator.add(key("a"), Origin::Resent, 3), Join);
        // Another worker forwarded a copy.
        assert_eq!(deduplicator.add(key("a"), A_COPY, 4), Join);
        assert_eq!(ended(&mut deduplicator, key("a")), [2, 3, 4]);
    }

    #[test]
    fn a_redelivery_of_an_answered_request_is_acked() {
        let mut deduplicator = Deduplicator::default();
        deduplicator.add(key("a"), Origin::New, 1);
        assert_eq!(ended(&mut deduplicator, key("a")), [1]);
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 2), Ack);
        assert_eq!(deduplicator.add(key("a"), A_COPY, 2), Ack);
        // Its caller may have lost the reply.
        let resent_and_forwarded = forwarded(true, 1);
        assert_eq!(deduplicator.add(key("a"), resent_and_forwarded, 3), copy("a"));
        assert_eq!(deduplicator.add(key("a"), Origin::Resent, 4), run("a"));
    }

    #[test]
    fn a_request_that_never_ran_here_runs() {
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 1), run("a"));
        let _ = deduplicator.abandon(&key("a"));
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 2), run("a"));
    }

    #[test]
    fn two_new_requests_with_one_key_both_run() {
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("1"), Origin::New, 1), run("1"));
        assert_eq!(deduplicator.add(key("1"), Origin::New, 2), RunUntracked);
        let another_caller = || RequestKey {
            reply_to: Some(ShortStr::from_static("amq.gen-2")),
            ..key("1")
        };
        assert_eq!(
            deduplicator.add(another_caller(), Origin::Redelivered, 3),
            DeliveryAction::Run(another_caller())
        );
        // A new request runs even if one with the same key was answered.
        let _ = deduplicator.finish(key("1"));
        assert_eq!(deduplicator.add(key("1"), Origin::New, 4), run("1"));
    }

    #[test]
    fn a_forwarded_copy_does_not_join_its_original() {
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 1), run("a"));
        deduplicator.mark_forwarded(&key("a"));
        assert_eq!(deduplicator.add(key("a"), A_COPY, 2), copy("a"));
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 3), Join);
        assert_eq!(ended(&mut deduplicator, key("a")), [1, 3]);
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 4), Ack);
        assert_eq!(deduplicator.add(key("a"), Origin::Resent, 5), run("a"));
    }

    #[test]
    fn a_request_that_is_forwarded_twice_runs_once() {
        for answered_in_between in [false, true] {
            let mut deduplicator = Deduplicator::default();
            deduplicator.add(key("a"), Origin::Redelivered, 1);
            deduplicator.mark_forwarded(&key("a"));
            assert_eq!(deduplicator.add(key("a"), A_COPY, 2), copy("a"));
            if answered_in_between {
                let _ = deduplicator.finish(key("a").of_copy(CopyToken(1)));
            }
            // The confirm of the first copy was lost.
            let again = match answered_in_between {
                true => Ack,
                false => Join,
            };
            assert_eq!(deduplicator.add(key("a"), A_COPY, 3), again);
            let _ = deduplicator.finish(key("a"));
            assert_eq!(deduplicator.add(key("a"), A_COPY, 4), again);
        }
    }

    #[test]
    fn an_id_is_equal_in_a_batch_and_in_a_message() {
        let uuid = Uuid::from_u128(0x00112233_4455_4677_8899_aabbccddeeff);
        assert_eq!(
            CorrelationId::from(&ShortStr::from_uuid(uuid)),
            CorrelationId::Uuid(uuid)
        );
        for other in [
            "7",
            "",
            "00112233445546778899AABBCCDDEEFF",
            "00112233-4455-4677-8899-AABBCCDDEEFF",
        ] {
            let other = ShortStr::from_static(other);
            assert_eq!(CorrelationId::from(&other), CorrelationId::Text(other));
        }
    }

    #[test]
    fn a_copy_is_marked_with_the_origin_of_its_original() {
        let mut headers = Headers::default();
        assert_eq!(Origin::new(false, false, &headers), Origin::New);
        assert_eq!(Origin::new(false, true, &headers), Origin::Resent);
        assert_eq!(Origin::new(true, false, &headers), Origin::Redelivered);
        Origin::mark_forwarded(&mut headers);
        let first = CopyToken::of(&headers);
        assert_eq!(
            Origin::new(true, false, &headers),
            Origin::Forwarded {
                was_resent: false,
                copy: first
            }
        );
        Origin::mark_forwarded(&mut headers);
        assert_ne!(CopyToken::of(&headers), first);

        let mut headers = Headers::default();
        Origin::mark_moved(&mut headers);
        let copy = CopyToken::of(&headers);
        assert_eq!(Origin::new(true, true, &headers), Origin::Moved { copy });
        // A worker that forwards it after a redelivery leaves it a job that was moved.
        Origin::mark_forwarded(&mut headers);
        let copy = CopyToken::of(&headers);
        assert_eq!(Origin::new(true, true, &headers), Origin::Moved { copy });

        let mut headers = Headers::default();
        headers.insert(ShortStr::from_static(RESENT_HEADER), String::new());
        assert_eq!(Origin::new(true, false, &headers), Origin::Resent);
        for _ in 0..2 {
            Origin::mark_forwarded(&mut headers);
            let copy = CopyToken::of(&headers);
            assert_eq!(
                Origin::new(false, false, &headers),
                Origin::Forwarded {
                    was_resent: true,
                    copy
                }
            );
        }
    }

    /// Its ack was lost. Its caller, which had sent the original again, has the answer to it, or
    /// sends the request once more.
    #[test]
    fn a_redelivered_copy_of_a_resent_request_is_acked_once_it_was_answered() {
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("a"), forwarded(true, 1), 1), copy("a"));
        assert_eq!(ended(&mut deduplicator, key("a").of_copy(CopyToken(1))), [1]);
        assert_eq!(deduplicator.add(key("a"), forwarded(true, 1), 2), Ack);
        let another = key("a").of_copy(CopyToken(2));
        assert_eq!(
            deduplicator.add(key("a"), forwarded(true, 2), 3),
            DeliveryAction::Run(another)
        );
        assert_eq!(deduplicator.add(key("a"), Origin::Resent, 4), run("a"));
        assert_eq!(ended(&mut deduplicator, key("a")), [4]);
        // Without a token, it may be any of the requests.
        assert_eq!(deduplicator.add(key("a"), forwarded(true, 0), 5), run("a"));
    }

    #[test]
    fn a_copy_of_a_copy_runs() {
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("a"), A_COPY, 1), copy("a"));
        deduplicator.mark_forwarded(&key("a").of_copy(CopyToken(1)));
        assert_eq!(ended(&mut deduplicator, key("a").of_copy(CopyToken(1))), [1]);
        let second = key("a").of_copy(CopyToken(2));
        assert_eq!(
            deduplicator.add(key("a"), forwarded(false, 2), 2),
            DeliveryAction::Run(second.clone())
        );
        assert_eq!(ended(&mut deduplicator, second), [2]);
        assert_eq!(deduplicator.add(key("a"), forwarded(false, 2), 3), Ack);
    }

    #[test]
    fn a_job_that_was_moved_runs_whatever_has_become_of_others_with_its_id() {
        let moved = |copy| Origin::Moved {
            copy: CopyToken(copy),
        };
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("a"), Origin::New, 1), run("a"));
        assert_eq!(ended(&mut deduplicator, key("a")), [1]);
        let first = key("a").of_copy(CopyToken(7));
        assert_eq!(
            deduplicator.add(key("a"), moved(7), 2),
            DeliveryAction::Run(first.clone())
        );
        // The confirm of the copy was lost, so it was published twice.
        assert_eq!(deduplicator.add(key("a"), moved(7), 3), Join);
        assert_eq!(ended(&mut deduplicator, first), [2, 3]);
        assert_eq!(deduplicator.add(key("a"), moved(7), 4), Ack);
        let second = key("a").of_copy(CopyToken(8));
        assert_eq!(
            deduplicator.add(key("a"), moved(8), 5),
            DeliveryAction::Run(second)
        );
    }

    #[test]
    fn a_redelivery_of_a_rejected_request_is_rejected() {
        let mut deduplicator = Deduplicator::default();
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 1), run("a"));
        deduplicator.mark_rejected(&key("a"));
        assert_eq!(ended(&mut deduplicator, key("a")), [1]);
        assert_eq!(deduplicator.add(key("a"), Origin::Redelivered, 2), Reject);
    }

    #[test]
    fn the_oldest_ended_request_is_forgotten() {
        let mut deduplicator = Deduplicator::default();
        for n in 0..=MAX_ENDED {
            deduplicator.add(numbered(n), Origin::New, ());
            let _ = deduplicator.finish(numbered(n));
        }
        assert_eq!(
            deduplicator.add(numbered(0), Origin::Redelivered, ()),
            DeliveryAction::Run(numbered(0))
        );
        assert_eq!(deduplicator.add(numbered(1), Origin::Redelivered, ()), Ack);
        assert_eq!(
            (deduplicator.ended.len(), deduplicator.in_progress.len()),
            (MAX_ENDED, 1)
        );
        let _ = deduplicator.abandon(&numbered(0));
        assert!(deduplicator.in_progress.is_empty());
    }

    #[test]
    fn a_request_that_runs_again_is_forgotten_once() {
        let mut deduplicator = Deduplicator::default();
        for _ in 0..2 {
            deduplicator.add(numbered(0), Origin::Resent, 7);
            assert_eq!(ended(&mut deduplicator, numbered(0)), [7]);
        }
        deduplicator.add(numbered(0), Origin::Resent, 8);
        for n in 1..=MAX_ENDED {
            deduplicator.add(numbered(n), Origin::New, 0);
            let _ = deduplicator.finish(numbered(n));
        }
        // Its end is forgotten. The request in progress is not.
        assert_eq!(deduplicator.add(numbered(0), Origin::Redelivered, 9), Join);
        assert_eq!(ended(&mut deduplicator, numbered(0)), [8, 9]);
    }
}
