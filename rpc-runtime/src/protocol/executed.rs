//! Whether the method of a failed call ran.

/// Whether the method of a failed call ran.
///
/// This enum is exhaustive on purpose: there is no fourth answer, and a caller that decides whether
/// to try again must handle all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Executed {
    /// It did not run and will not run. It is safe to make the call again.
    No,
    /// It may have run, may be running, or may still run.
    Maybe,
    /// It ran.
    Yes,
}
