//! What the compiler says of a service trait that is refused, or of types that do not fit: the message is what is tested.
//!
//! Run with `TRYBUILD=overwrite` to write the messages anew, and read the difference: they are those of one compiler version.

#[test]
fn refusals_teach() {
    trybuild::TestCases::new().compile_fail("ui/*/*.rs");
}
