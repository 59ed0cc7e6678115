//! The rules for requests that were delivered before: which of them may run again.
//!
//! A request is delivered again if the broker redelivers it, if another queue dead-lettered it, or
//! if its caller or another worker sends it again. It may crash its worker each time, so it must
//! not be delivered again without end.

use super::rules::Rules;
use crate::describe::MethodDescriptor;
use crate::protocol::{Headers, Message, REDELIVERIES_HEADER, RESENT_HEADER, Request, ShortStr};

/// The headers in which a quorum queue counts earlier deliveries of a message. RabbitMQ 4.3 counts
/// lost consumers in the first one and all deliveries in the second one.
pub(super) const DELIVERY_COUNT: &str = "x-delivery-count";
pub(super) const ACQUIRED_COUNT: &str = "x-acquired-count";

/// Returns how many times a request was redelivered, as counted by workers in a header; see
/// [`Rules::redeliveries_if_only_workers_count`]. A job's count begins again with each attempt.
pub(crate) fn redelivery_count(headers: &Headers) -> u32 {
    let count = headers.get(REDELIVERIES_HEADER);
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Sets the count that [`redelivery_count`] returns.
pub(crate) fn set_redelivery_count(headers: &mut Headers, redeliveries: u32) {
    headers.insert(
        ShortStr::from_static(REDELIVERIES_HEADER),
        redeliveries.to_string(),
    );
}

/// Returns how many times the queue delivered a message before, as counted by the queue. `None` if
/// it does not count, or has not delivered the message before.
pub(super) fn delivery_count(headers: &Headers) -> Option<u32> {
    let count_in = |name| {
        let count = headers.get(name)?.parse::<u64>().ok()?;
        Some(u32::try_from(count).unwrap_or(u32::MAX))
    };
    count_in(DELIVERY_COUNT).max(count_in(ACQUIRED_COUNT))
}

/// Whether a request expired in a queue that dead-lettered it. A one-way request counts only if its
/// caller set the expiration: a queue with a message TTL may exist to delay its messages.
pub(super) fn expired_in_queue(request: &Request) -> bool {
    request.dead_lettered.is_some_and(|dead| {
        dead.has_expired && (dead.original_expiration.is_some() || request.reply_to.is_some())
    })
}

/// Whether a worker may have begun a request before it expired, in this queue or another one.
/// Expiry itself is no sign of that.
pub(super) fn may_have_begun(request: &Request, redelivered: bool) -> bool {
    redelivered
        || request
            .dead_lettered
            .is_some_and(|dead| dead.non_expiry_deaths > 0)
        || request.headers.get(RESENT_HEADER).is_some()
}

/// Whether a request that was delivered before may run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rerun {
    /// It may.
    Allowed,
    /// It must not, for this reason, but a layer may know the outcome of an earlier delivery.
    OnlyLayers(&'static str),
    /// It must not, for this reason.
    Refused(&'static str),
}

impl Rules {
    /// Like [`delivery_count`], for a message of this queue. `None` for a classic queue: there, the
    /// header is forged, or another queue wrote it.
    fn trusted_delivery_count(&self, headers: &Headers) -> Option<u32> {
        delivery_count(headers).filter(|_| !self.is_classic)
    }

    /// Decides whether a request that was delivered before may run again. Must not be called for a
    /// first delivery.
    pub(super) fn rerun(&self, method: &MethodDescriptor, request: &Request, redelivered: bool) -> Rerun {
        let redelivery_refusal = self.redelivery_refusal(method, request, redelivered);
        if method.is_idempotent {
            return redelivery_refusal.map_or(Rerun::Allowed, Rerun::Refused);
        }
        let reason = "the method is not idempotent";
        // Nobody waits for the outcome of a one-way method.
        if self.layers_may_answer && !method.is_oneway && redelivery_refusal.is_none() {
            Rerun::OnlyLayers(reason)
        } else {
            Rerun::Refused(reason)
        }
    }

    /// Returns why a request must not run again even if its method is `idempotent`: it was
    /// delivered too often, or might be delivered without end. `None` if neither is the case.
    fn redelivery_refusal(
        &self,
        method: &MethodDescriptor,
        request: &Request,
        redelivered: bool,
    ) -> Option<&'static str> {
        let count = self.trusted_delivery_count(&request.headers);
        // A quorum queue drops a message beyond its limit. A job is given up earlier, so that some
        // deliveries are left to move it to the dead-letter queue.
        let limit = match count {
            Some(_) if method.is_job() => self.max_deliveries.div_ceil(2),
            _ => self.max_deliveries,
        };
        let deaths_elsewhere = request.dead_lettered.map_or(0, |dead| dead.non_expiry_deaths);
        if count.unwrap_or(0).saturating_add(deaths_elsewhere) >= limit {
            return Some("it was delivered too often");
        }
        if redelivered && count.is_none() && !expires(request) {
            // Only workers count such a request. Below the limit, they publish a copy with a higher
            // count instead of running it; see `redeliveries_if_only_workers_count`.
            return Some(match redelivery_count(&request.headers) {
                0 => "it has no expiration, and its queue does not count its deliveries",
                _ => "it was delivered too often",
            });
        }
        None
    }

    /// Returns how many times a one-way request was redelivered, including this time, if only
    /// workers can count that. Each dead-lettering for a reason other than expiry counts too,
    /// because the copy that carries the count no longer shows it. Does not check that the method
    /// is idempotent.
    ///
    /// `None` if the request expects a reply, if it is not redelivered now, if it expires or has
    /// expired, if its queue counts deliveries, if it was redelivered too often, or if no copy of
    /// it can be published.
    pub(super) fn redeliveries_if_only_workers_count(
        &self,
        message: &Message,
        redelivered: bool,
        is_job: bool,
    ) -> Option<u32> {
        let properties = &message.properties;
        let is_oneway = is_unset(properties.reply_to.as_ref());
        let only_workers_count = redelivered
            && is_oneway
            && properties.expiration.is_none()
            && self.trusted_delivery_count(&properties.headers).is_none();
        // Only the user itself can publish a message with its user id. A job's copy has none.
        let can_be_copied = (is_job || properties.user_id.is_none())
            && message.body.len() <= self.max_sent_bytes.min(self.max_accepted_bytes);
        if !only_workers_count || !can_be_copied {
            return None;
        }
        let dead = properties.dead_lettered.unwrap_or_default();
        let redeliveries = redelivery_count(&properties.headers)
            .saturating_add(dead.non_expiry_deaths)
            .saturating_add(1);
        let has_expired = dead.has_expired && dead.original_expiration.is_some();
        (redeliveries < self.max_deliveries && !has_expired).then_some(redeliveries)
    }
}

/// Whether the broker will expire a request. It has removed the `expiration` of a dead letter.
fn expires(request: &Request) -> bool {
    request.time_to_live.is_some() && request.dead_lettered.is_none()
}

fn is_unset(property: Option<&ShortStr>) -> bool {
    property.is_none_or(|value| value.as_str().is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixtures::{
        admitted, decide, message, refused, request, rules, runs, store, with_reply_to,
    };
    use super::*;
    use crate::protocol::{DeadLettered, DeathReason, FaultCode, Properties};

    fn dead_letter(method: &'static str, reason: DeathReason, expiration: Option<Duration>) -> Properties {
        let mut dead = DeadLettered::default();
        dead.add(reason, 1, expiration);
        Properties {
            expiration: None,
            dead_lettered: Some(dead),
            ..request(method)
        }
    }

    #[test]
    fn only_idempotent_methods_run_again() {
        assert_eq!(runs(decide(request("read"), true)), "read");
        assert_eq!(refused(decide(request("write"), true)), FaultCode::Interrupted);
        // An unknown method. An earlier worker may have had it.
        assert_eq!(refused(decide(request("erase"), true)), FaultCode::Interrupted);
    }

    #[test]
    fn a_method_that_must_not_run_again_may_be_answered_by_a_layer() {
        const WRITE: MethodDescriptor = MethodDescriptor::new("write", &[]);
        let read = |properties| Request::from_message(message(properties)).unwrap();
        let call = read(request("write"));
        let refused = Rerun::Refused("the method is not idempotent");
        let mut rules = rules();
        assert_eq!(rules.rerun(&WRITE, &call, true), refused);
        rules.layers_may_answer = true;
        let only_layers = Rerun::OnlyLayers("the method is not idempotent");
        assert_eq!(rules.rerun(&WRITE, &call, true), only_layers);
        assert_eq!(rules.rerun(&WRITE.oneway(), &call, true), refused);
        assert_eq!(rules.rerun(&WRITE.idempotent(), &call, true), Rerun::Allowed);
        // Nothing would ever end these.
        let endless = Properties {
            expiration: None,
            ..request("write")
        };
        assert_eq!(rules.rerun(&WRITE, &read(endless), true), refused);
        let mut counted = request("write");
        let name = ShortStr::from_static(DELIVERY_COUNT);
        counted.headers.insert(name, "3".to_owned());
        assert_eq!(rules.rerun(&WRITE, &read(counted), true), refused);
    }

    #[test]
    fn a_dead_letter_counts_as_delivered_before() {
        use DeathReason::{DeliveryLimit, Other, Rejected};
        for reason in [Rejected, DeliveryLimit, Other] {
            let of = |method| dead_letter(method, reason, None);
            assert_eq!(refused(decide(of("write"), false)), FaultCode::Interrupted);
            assert_eq!(refused(decide(of("erase"), false)), FaultCode::Interrupted);
            let invocation = admitted(decide(of("read"), false)).invocation;
            assert!(invocation.context().redelivered());
            // Nothing would ever end it.
            assert_eq!(refused(decide(of("read"), true)), FaultCode::Interrupted);
        }
    }

    #[test]
    fn the_deadline_of_a_dead_letter_is_at_most_its_first_time_to_live() {
        let time = Duration::from_secs(3);
        let properties = dead_letter("read", DeathReason::Rejected, Some(time));
        let invocation = admitted(decide(properties, false)).invocation;
        assert!(invocation.context().remaining().is_some_and(|left| left <= time));
    }

    #[test]
    fn an_expired_dead_letter_does_not_run() {
        let time = Some(Duration::from_secs(1));
        for method in ["read", "write"] {
            let expired = |time| dead_letter(method, DeathReason::Expired, time);
            assert_eq!(refused(decide(expired(time), false)), FaultCode::Expired);
            assert_eq!(
                refused(decide(with_reply_to(expired(None)), false)),
                FaultCode::Expired
            );
        }
        // A worker may have begun it before it expired.
        let mut delivered = dead_letter("write", DeathReason::DeliveryLimit, time);
        if let Some(dead) = &mut delivered.dead_lettered {
            dead.add(DeathReason::Expired, 1, None);
        }
        let mut resent = dead_letter("read", DeathReason::Expired, time);
        let name = ShortStr::from_static(RESENT_HEADER);
        resent.headers.insert(name, String::new());
        let again = dead_letter("read", DeathReason::Expired, time);
        for (properties, redelivered) in [(delivered, false), (resent, false), (again, true)] {
            assert_eq!(refused(decide(properties, redelivered)), FaultCode::Interrupted);
        }
        // A queue may delay one-way requests with its message TTL.
        let delayed = |method| dead_letter(method, DeathReason::Expired, None);
        assert_eq!(runs(decide(delayed("read"), false)), "read");
        assert_eq!(refused(decide(delayed("write"), false)), FaultCode::Interrupted);
    }

    #[test]
    fn a_classic_queue_counts_nothing_whatever_the_headers_say() {
        let mut rules = rules();
        rules.is_classic = true;
        let mut job = message(Properties {
            expiration: None,
            ..request("read")
        });
        let name = ShortStr::from_static(DELIVERY_COUNT);
        job.properties.headers.insert(name, "2".to_owned());
        assert_eq!(
            rules.redeliveries_if_only_workers_count(&job, true, true),
            Some(1)
        );
        rules.is_classic = false;
        assert_eq!(rules.redeliveries_if_only_workers_count(&job, true, true), None);
    }

    #[test]
    fn the_counts_of_all_queues_add_up() {
        let came = |dead_letters, count: &str| {
            let mut properties = dead_letter("read", DeathReason::Rejected, None);
            properties.dead_lettered.get_or_insert_default().add(
                DeathReason::DeliveryLimit,
                dead_letters,
                None,
            );
            let name = ShortStr::from_static(DELIVERY_COUNT);
            properties.headers.insert(name, count.to_owned());
            decide(properties, true)
        };
        assert_eq!(runs(came(0, "1")), "read");
        assert_eq!(refused(came(0, "2")), FaultCode::Interrupted);
        assert_eq!(refused(came(1, "1")), FaultCode::Interrupted);
        assert_eq!(refused(came(u32::MAX, "1")), FaultCode::Interrupted);
    }

    #[test]
    fn both_counts_of_a_quorum_queue_are_read() {
        let counted = |delivery: &str, acquired: &str| {
            let mut headers = Headers::default();
            headers.insert(ShortStr::from_static(DELIVERY_COUNT), delivery.to_owned());
            headers.insert(ShortStr::from_static(ACQUIRED_COUNT), acquired.to_owned());
            delivery_count(&headers)
        };
        assert_eq!(counted("1", "4"), Some(4));
        assert_eq!(counted("5", "4"), Some(5));
        assert_eq!(counted("many", "-1"), None);
        assert_eq!(counted("", "99999999999999"), Some(u32::MAX));
        assert_eq!(delivery_count(&Headers::default()), None);
    }

    #[test]
    fn workers_count_the_redeliveries_of_a_one_way_request_that_nothing_else_counts() {
        let oneway = || Properties {
            expiration: None,
            ..request("read")
        };
        let redeliveries = |properties, redelivered| {
            store().worker_counted_redeliveries(&message(properties), redelivered, &rules())
        };
        let counted = |name, count: &str| {
            let mut properties = oneway();
            properties
                .headers
                .insert(ShortStr::from_static(name), count.to_owned());
            properties
        };
        assert_eq!(redeliveries(oneway(), true), Some(1));
        assert_eq!(redeliveries(counted(REDELIVERIES_HEADER, "1"), true), Some(2));
        // The rules allow three deliveries.
        assert_eq!(redeliveries(counted(REDELIVERIES_HEADER, "2"), true), None);
        assert_eq!(
            refused(decide(counted(REDELIVERIES_HEADER, "2"), true)),
            FaultCode::Interrupted
        );
        assert_eq!(redeliveries(oneway(), false), None);
        assert_eq!(redeliveries(request("read"), true), None);
        assert_eq!(redeliveries(with_reply_to(oneway()), true), None);
        assert_eq!(redeliveries(counted(DELIVERY_COUNT, "1"), true), None);
        let of_user = Properties {
            user_id: Some(ShortStr::from_static("guest")),
            ..oneway()
        };
        assert_eq!(redeliveries(of_user, true), None);
        let not_idempotent = Properties {
            expiration: None,
            ..request("write")
        };
        assert_eq!(redeliveries(not_idempotent, true), None);
    }

    #[test]
    fn an_idempotent_request_is_not_redelivered_without_end() {
        let counted = |count: u32, expiration| {
            let mut properties = Properties {
                expiration,
                ..request("read")
            };
            let name = ShortStr::from_static(DELIVERY_COUNT);
            properties.headers.insert(name, count.to_string());
            properties
        };
        let some_time = request("read").expiration;
        assert_eq!(runs(decide(counted(2, some_time), true)), "read");
        assert_eq!(runs(decide(counted(2, None), true)), "read");
        assert_eq!(
            refused(decide(counted(3, some_time), true)),
            FaultCode::Interrupted
        );
        // Nothing would ever end it.
        let endless = Properties {
            expiration: None,
            ..request("read")
        };
        assert_eq!(runs(decide(endless.clone(), false)), "read");
        assert_eq!(refused(decide(endless, true)), FaultCode::Interrupted);
    }
}
