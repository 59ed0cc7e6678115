//! Whether the method of a failed call ran.

/// Whether the method of a failed call ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Executed {
    /// It did not run and will not: calling again is safe.
    No,
    /// It may have run, may be running, or may yet run.
    Maybe,
    /// It ran.
    Yes,
}
