//! The id of a request, which all of its deliveries have.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::short_str::ShortStr;

/// What identifies a request: a UUID, which no other request has.
///
/// All deliveries of a request have the same id: redeliveries after a lost worker, copies that
/// workers forward, retries of a job, its dead letter, and what its caller sends again after a lost
/// connection. [`Context::request_id`](crate::Context::request_id) returns it. A request whose
/// correlation id is no UUID has none.
///
/// Its text has the usual form of a UUID. Store it in a column with a unique key.
///
/// ```
/// use rpc_runtime::RequestId;
///
/// let id: RequestId = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse()?;
/// assert_eq!(id.to_string(), "67e55044-10b1-426f-9247-bb680e5fe0c8");
/// # Ok::<(), rpc_runtime::InvalidRequestId>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Uuid);

/// A text is not a UUID, or it is the nil or the max UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request id is a UUID, such as 67e55044-10b1-426f-9247-bb680e5fe0c8")]
#[non_exhaustive]
pub struct InvalidRequestId;

/// Returns a random id. In unit tests, it comes from the generator of the thread, so that a
/// simulation has the same ids each time.
pub(crate) fn random_id() -> Uuid {
    #[cfg(not(test))]
    return Uuid::new_v4();
    #[cfg(test)]
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid()
}

impl RequestId {
    /// Creates a random id, for a unit test.
    #[must_use]
    pub fn random() -> Self {
        Self(random_id())
    }

    pub(crate) fn of(id: Uuid) -> Self {
        Self(id)
    }

    pub(crate) fn uuid(self) -> Uuid {
        self.0
    }

    /// Returns the id of a request with this correlation id. `None` if that is not a `RequestId`:
    /// it may then not be unique, such as a counter that starts again with its program.
    pub(crate) fn of_correlation_id(id: &ShortStr) -> Option<Self> {
        id.as_str().parse().ok()
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        match Uuid::try_parse(text) {
            // Programs send these for lack of an id.
            Ok(id) if id.is_nil() || id.is_max() => Err(InvalidRequestId),
            Ok(id) => Ok(Self(id)),
            Err(_) => Err(InvalidRequestId),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(text: &'static str) -> Option<String> {
        RequestId::of_correlation_id(&ShortStr::from_static(text)).map(|id| id.to_string())
    }

    #[test]
    fn each_spelling_of_a_uuid_is_the_same_id() {
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        for spelling in [
            id,
            "67E55044-10B1-426F-9247-BB680E5FE0C8",
            "67e5504410b1426f9247bb680e5fe0c8",
            "{67e55044-10b1-426f-9247-bb680e5fe0c8}",
        ] {
            assert_eq!(id_of(spelling).as_deref(), Some(id), "{spelling}");
        }
    }

    #[test]
    fn text_that_several_requests_may_have_is_no_id() {
        for text in [
            "",
            "1",
            "order-7",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ] {
            assert_eq!(id_of(text), None, "{text}");
        }
    }
}
