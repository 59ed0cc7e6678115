//! Whether the method of a failed call ran.

/// Whether the method of a failed call ran.
///
/// This enum is exhaustive on purpose: there is no fourth answer, and a caller that decides whether
/// to try again must handle all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Executed {
    /// It did not run and will not run. It is safe to make the call again.
    ///
    /// An idempotent method may still run in one case: if the worker that refused the request is
    /// lost before the broker has its acknowledgement, the broker gives the request to another
    /// worker, which does not know of the refusal. A method that is not idempotent never runs then,
    /// because a worker refuses to run what another one may have begun.
    No,
    /// It may have run, may be running, or may still run.
    Maybe,
    /// It ran.
    Yes,
}
