//! The history of a dead-lettered message.
//!
//! When RabbitMQ [dead-letters](https://www.rabbitmq.com/docs/dlx) a message, it removes the
//! `expiration`, and the next queue delivers the message as if for the first time. The headers
//! `x-death` and `x-first-death-reason` tell its history. Any peer can send these headers, so
//! values that make no sense are ignored, except for a count: a senseless one is taken as
//! `u32::MAX`, so that it cannot evade a limit.

use std::time::Duration;

/// The header with one entry for each pair of queue and reason.
pub(crate) const DEATHS_HEADER: &str = "x-death";

/// The header with the reason of the first dead-lettering.
pub(crate) const FIRST_DEATH_REASON_HEADER: &str = "x-first-death-reason";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DeadLettered {
    /// Whether it expired in a queue.
    pub(crate) has_expired: bool,
    /// How many times it was dead-lettered for a reason other than expiry.
    pub(crate) non_expiry_deaths: u32,
    /// How many times it was rejected.
    pub(crate) rejections: u32,
    /// Its original time to live, the shortest one if entries differ. How much of it has passed is
    /// unknown.
    pub(crate) original_expiration: Option<Duration>,
}

/// Why a queue dead-lettered a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeathReason {
    Rejected,
    Expired,
    DeliveryLimit,
    /// The queue was full (`maxlen`), or the reason is unknown to this version.
    Other,
}

impl DeathReason {
    pub(crate) fn from_wire(reason: &str) -> Self {
        match reason {
            "rejected" => Self::Rejected,
            "expired" => Self::Expired,
            "delivery_limit" => Self::DeliveryLimit,
            _ => Self::Other,
        }
    }

    /// The reason in RabbitMQ's words. Only the in-process broker calls this, and never for
    /// `Other`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::DeliveryLimit => "delivery_limit",
            Self::Other => "maxlen",
        }
    }
}

impl DeadLettered {
    /// Adds an entry of `x-death`.
    pub(crate) fn add(&mut self, reason: DeathReason, count: u32, original_expiration: Option<Duration>) {
        match reason {
            DeathReason::Expired => self.has_expired = true,
            DeathReason::Rejected => self.rejections = self.rejections.saturating_add(count),
            DeathReason::DeliveryLimit | DeathReason::Other => {}
        }
        if reason != DeathReason::Expired {
            self.non_expiry_deaths = self.non_expiry_deaths.saturating_add(count);
        }
        let expirations = self.original_expiration.into_iter().chain(original_expiration);
        self.original_expiration = expirations.min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_up_and_saturate() {
        let mut dead = DeadLettered::default();
        dead.add(DeathReason::Rejected, 2, None);
        dead.add(DeathReason::DeliveryLimit, 3, Some(Duration::from_secs(2)));
        dead.add(DeathReason::Other, 4, Some(Duration::from_secs(1)));
        let expected = DeadLettered {
            has_expired: false,
            non_expiry_deaths: 9,
            rejections: 2,
            original_expiration: Some(Duration::from_secs(1)),
        };
        assert_eq!(dead, expected);
        dead.add(DeathReason::Rejected, u32::MAX, None);
        assert_eq!((dead.non_expiry_deaths, dead.rejections), (u32::MAX, u32::MAX));
    }

    #[test]
    fn an_expiry_does_not_count_as_a_delivery() {
        let mut dead = DeadLettered::default();
        dead.add(DeathReason::Expired, 7, None);
        assert_eq!((dead.has_expired, dead.non_expiry_deaths), (true, 0));
    }
}
