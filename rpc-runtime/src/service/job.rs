//! Jobs: what becomes of one after an attempt has failed. Pure: no I/O, no clock.
//!
//! A job is a one-way request for an `idempotent` method. It is acknowledged after its method has
//! returned without an error. If an attempt fails, a copy of the job waits in a retry queue, or
//! ends in the dead-letter queue with the reason, and the original is acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::codec::Codec;
use crate::describe::{MethodDescriptor, RetryPolicy};
use crate::protocol::{
    Fault, FaultCode, Headers, MAX_DELAY, REASON_HEADER, Reply, ReplyKind, failed_attempts, record_failure,
    remaining_delay, set_remaining_delay,
};
use crate::telemetry::Outcome;

/// The times to live of retry queues, in milliseconds. A queue delivers its messages in order, so
/// all messages of one retry queue wait equally long.
const RETRY_QUEUES: [u64; 22] = [
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

/// The shortest time that a job waits in a retry queue, in milliseconds.
pub(crate) const SHORTEST_WAIT: u64 = RETRY_QUEUES[0];

/// How long a job of a redelivered batch waits in a retry queue at least, in milliseconds. If it
/// crashed its worker again before the batch is acknowledged, both the batch and the copies of its
/// jobs would be delivered, and the copies would multiply. Moving a batch of 1024 jobs takes a
/// moment, but up to a second for each 64 of them while another copy is unconfirmed.
pub(crate) const REDELIVERED_BATCH_WAIT: u64 = 10_000;

/// How long a job of a redelivered batch waits at least if no retry queue took it. It went to the
/// end of the request queue instead. The worker that gets it from there holds it back, because it
/// may crash that worker and must not do so before its batch is acked.
pub(crate) const RETURNED_PAUSE: Duration = Duration::from_secs(2);

/// How long a job that was given up waits in a retry queue if the dead-letter queue does not take
/// it, in milliseconds.
pub(crate) const DEAD_LETTER_WAIT: u64 = 10_000;

/// Returns the names of the queues in which jobs of a request queue wait for a retry, until the
/// time that their caller set, or until the dead-letter queue takes them. At its start, a worker
/// declares those that its methods may need. It declares others when a caller's delay needs them.
///
/// ```
/// use rpc_runtime::discovery::retry_queues;
///
/// assert_eq!(retry_queues("mail").next().unwrap(), "mail.retry.100");
/// assert_eq!(retry_queues("mail").count(), 22);
/// ```
pub fn retry_queues(queue: &str) -> impl Iterator<Item = String> {
    RETRY_QUEUES
        .into_iter()
        .map(move |millis| format!("{queue}.retry.{millis}"))
}

/// Returns the name of the queue that keeps the jobs of a request queue that were given up.
///
/// ```
/// assert_eq!(rpc_runtime::discovery::dead_queue("mail"), "mail.dead");
/// ```
#[must_use]
pub fn dead_queue(queue: &str) -> String {
    format!("{queue}.dead")
}

/// Why an attempt of a job failed.
#[derive(Debug)]
pub(crate) enum JobFailure {
    /// The method returned an error.
    Error { text: String },
    /// The attempt ended with a fault: for example, the method panicked or did not run.
    Fault(Fault),
}

/// What to do with a job after an attempt has failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// Try again after this time.
    Retry(Duration),
    /// Give up: move it to the dead-letter queue.
    Dead,
}

impl JobFailure {
    /// Returns why the attempt failed. `None` if it did not.
    pub(crate) fn of(reply: &Reply) -> Option<Self> {
        match reply.kind {
            ReplyKind::Result => None,
            ReplyKind::Error => Some(Self::Error { text: text_of(reply) }),
            ReplyKind::Fault => Some(Self::Fault(reply.read_fault())),
        }
    }

    /// The reason, as in the header `rpc-reason`.
    fn reason(&self) -> &str {
        match self {
            Self::Error { .. } => "error",
            Self::Fault(fault) => fault.code.as_str(),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Error { text } => text,
            Self::Fault(fault) => &fault.message,
        }
    }

    /// Whether another attempt may succeed. Not after `interrupted`: the job was delivered too
    /// often.
    fn is_worth_retrying(&self) -> bool {
        match self {
            Self::Error { .. } => true,
            Self::Fault(fault) => !matches!(
                fault.code,
                FaultCode::BadRequest
                    | FaultCode::UnsupportedContentType
                    | FaultCode::UnknownMethod
                    | FaultCode::TooLarge
                    // A copy has no user id, so it would be refused even if the user may send it.
                    | FaultCode::Unauthorized
                    | FaultCode::Expired
                    | FaultCode::Interrupted
            ),
        }
    }

    /// Records the failure in the headers of the job, and decides what to do with it.
    ///
    /// `method` is `None` if it is unknown or is not a job. `now` is in milliseconds since the Unix
    /// epoch. `jitter`, from 0 to 1, spreads jobs that failed at the same time.
    pub(crate) fn record(
        &self,
        headers: &mut Headers,
        method: Option<&MethodDescriptor>,
        now: u64,
        jitter: f64,
    ) -> AfterFailure {
        record_failure(headers, self.reason(), self.text(), now);
        let attempts = failed_attempts(headers);
        match method.and_then(|method| method.retry) {
            Some(policy) if self.is_worth_retrying() && attempts <= policy.times.into() => {
                let delay = spread(policy.delay(attempts), jitter);
                AfterFailure::Retry(rounded_up(delay))
            }
            _ => AfterFailure::Dead,
        }
    }
}

/// Returns why the last attempt of a job failed, as metrics name it.
pub(crate) fn outcome_of(headers: &Headers) -> Outcome {
    match headers.get(REASON_HEADER).unwrap_or_default() {
        "error" => Outcome::Error,
        code => Outcome::of_fault(&FaultCode::from_wire(code)),
    }
}

/// Returns the error in a reply as text for people.
fn text_of(reply: &Reply) -> String {
    if reply.codec == Codec::Text {
        return String::from_utf8_lossy(&reply.body).into_owned();
    }
    match reply.codec.decode::<serde_json::Value>(&reply.body) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(value) => value.to_string(),
        Err(_) => "the error cannot be shown as text".to_owned(),
    }
}

/// Limits a delay to [`MAX_DELAY`], and then makes it up to a fifth shorter (with a jitter of 0) or
/// longer (with a jitter of 1).
fn spread(delay: Duration, jitter: f64) -> Duration {
    delay.min(MAX_DELAY).mul_f64(0.8 + 0.4 * jitter)
}

/// Returns the times to live of the retry queues that jobs with these policies may use, in
/// milliseconds. A caller's delay may use others.
pub(crate) fn waits_of_all(policies: impl Iterator<Item = RetryPolicy>) -> BTreeSet<u64> {
    let always = [SHORTEST_WAIT, REDELIVERED_BATCH_WAIT, DEAD_LETTER_WAIT];
    let of_policies = policies.flat_map(|policy| waits_of(&policy));
    always.into_iter().chain(of_policies).collect()
}

/// Returns the times to live of all retry queues that the delays of a policy may use, in
/// milliseconds: those up to the longest.
fn waits_of(policy: &RetryPolicy) -> impl Iterator<Item = u64> + use<> {
    let max_jitter = 1.0;
    let longest_delay = spread(policy.max_delay.max(policy.min_delay), max_jitter);
    let (longest_wait, _rest) = next_wait(rounded_up(longest_delay));
    RETRY_QUEUES
        .into_iter()
        .take_while(move |millis| *millis <= longest_wait)
}

/// Splits a delay into the time to live of the retry queue to wait in next, in milliseconds, and
/// the rest, which the job waits afterwards. The delay must be [rounded](rounded_up).
pub(crate) fn next_wait(delay: Duration) -> (u64, Duration) {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    let longest = RETRY_QUEUES.iter().rev().find(|wait| **wait <= millis);
    let wait = longest.copied().unwrap_or(SHORTEST_WAIT);
    (wait, Duration::from_millis(millis.saturating_sub(wait)))
}

/// Returns how long this worker holds back a copy of a redelivered job because no retry queue took
/// it, and removes this delay from the headers. A delay longer than [`RETURNED_PAUSE`] stays in the
/// headers, and the copy waits in a retry queue: returns zero then, and if there is no delay.
pub(crate) fn take_returned_pause(headers: &mut Headers) -> Duration {
    let delay = remaining_delay(headers);
    if delay > RETURNED_PAUSE {
        return Duration::ZERO;
    }
    set_remaining_delay(headers, Duration::ZERO);
    delay
}

/// Rounds a delay up to a tenth of a second and to two significant digits, so that it is the sum
/// of few times to live. Never returns zero.
pub(crate) fn rounded_up(delay: Duration) -> Duration {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1);
    let unit = 10_u64.pow(millis.ilog10().saturating_sub(1)).max(SHORTEST_WAIT);
    Duration::from_millis(millis.div_ceil(unit).saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::describe::RetryPolicy;

    const METHOD: MethodDescriptor = MethodDescriptor::new("send", &[]).oneway().idempotent();

    fn retried(times: u16) -> MethodDescriptor {
        METHOD.retry(RetryPolicy::new(
            times,
            Duration::from_secs(1),
            Duration::from_secs(100),
        ))
    }

    fn fault(code: FaultCode) -> JobFailure {
        JobFailure::Fault(Fault::new(code, "why"))
    }

    #[test]
    fn a_job_is_retried_as_often_as_its_method_says() {
        let (mut headers, method) = (Headers::default(), retried(3));
        let mut fail = || fault(FaultCode::Panicked).record(&mut headers, Some(&method), 1, 0.5);
        for seconds in [1, 10, 100] {
            assert_eq!(fail(), AfterFailure::Retry(Duration::from_secs(seconds)));
        }
        assert_eq!(fail(), AfterFailure::Dead);
        assert_eq!(failed_attempts(&headers), 4);
    }

    #[test]
    fn a_job_is_not_retried_without_a_policy_or_a_method() {
        for method in [Some(&METHOD), None] {
            let after = fault(FaultCode::Panicked).record(&mut Headers::default(), method, 1, 0.5);
            assert_eq!(after, AfterFailure::Dead);
        }
    }

    #[test]
    fn a_request_that_can_never_run_is_not_retried() {
        for code in [
            FaultCode::BadRequest,
            FaultCode::UnknownMethod,
            FaultCode::Unauthorized,
            FaultCode::Interrupted,
        ] {
            let after = fault(code).record(&mut Headers::default(), Some(&retried(3)), 1, 0.5);
            assert_eq!(after, AfterFailure::Dead);
        }
    }

    #[test]
    fn errors_are_shown_as_text() {
        let shown = |codec: Codec, value: serde_json::Value| {
            let reply = Reply::new(ReplyKind::Error, codec, codec.encode(&value).unwrap());
            JobFailure::of(&reply).unwrap().text().to_owned()
        };
        assert_eq!(shown(Codec::Json, "no route".into()), "no route");
        let value = serde_json::json!({"short_by": 3});
        assert_eq!(shown(Codec::MessagePack, value), r#"{"short_by":3}"#);
        let text = Reply::new(ReplyKind::Error, Codec::Text, "no route".into());
        assert_eq!(JobFailure::of(&text).unwrap().text(), "no route");
        let unreadable = Reply::new(ReplyKind::Error, Codec::Json, "{".into());
        assert_eq!(
            JobFailure::of(&unreadable).unwrap().text(),
            "the error cannot be shown as text"
        );
    }

    #[test]
    fn a_delay_of_any_length_is_within_the_limit() {
        let method = METHOD.retry(RetryPolicy::new(1, Duration::MAX, Duration::MAX));
        let after = fault(FaultCode::Panicked).record(&mut Headers::default(), Some(&method), 1, 1.0);
        let AfterFailure::Retry(delay) = after else {
            panic!("{after:?}")
        };
        assert!(delay <= 2 * MAX_DELAY, "{delay:?}");
    }

    #[test]
    fn the_waits_that_do_not_depend_on_a_policy_have_queues() {
        for wait in waits_of_all(std::iter::empty()) {
            assert!(RETRY_QUEUES.contains(&wait), "{wait}");
        }
    }

    proptest! {
        /// The retry queues of a policy are those that its delays use.
        #[test]
        fn the_waits_of_a_policy_are_known(min in 1..1_000_000_u64, more in 0..600_000_000_u64, number in 1..6_u32, jitter in 0.0..1.0) {
            let millis = Duration::from_millis;
            let policy = RetryPolicy::new(5, millis(min), millis(min + more));
            let known: Vec<_> = waits_of(&policy).collect();
            let mut rest = rounded_up(spread(policy.delay(number), jitter));
            while !rest.is_zero() {
                let (queue, next) = next_wait(rest);
                prop_assert!(known.contains(&queue), "{queue} is not in {known:?}");
                rest = next;
            }
        }

        /// A job waits at least as long as its delay, and little longer, in few retry queues.
        #[test]
        fn a_delay_is_the_sum_of_few_waits(millis in 0..3_000_000_000_u64) {
            let mut rest = rounded_up(Duration::from_millis(millis));
            let (mut total, mut waits) = (0, 0);
            while !rest.is_zero() {
                let (queue, next) = next_wait(rest);
                total += queue;
                waits += 1;
                rest = next;
            }
            prop_assert!(waits <= 8, "{waits}");
            prop_assert!((millis..=millis + (millis / 10).max(100)).contains(&total), "{total}");
        }
    }
}
