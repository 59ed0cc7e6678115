//! The compiler's messages about service traits that the macro refuses, and about types that do not
//! fit.
//!
//! Run with `TRYBUILD=overwrite` to write the messages again, and review the difference. They are
//! those of one compiler version.

#[test]
fn refusals_teach() {
    trybuild::TestCases::new().compile_fail("ui/*/*.rs");
}
