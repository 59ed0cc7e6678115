//! What `rpc generate` writes is what the tools of its language would write and accept, and so are
//! the programs of these tests.

use crate::project::{Python, TypeScript};

#[tokio::test]
async fn modules_in_python_are_formatted_and_typed() {
    if let Err(error) = Python::get().await.check().await {
        panic!("{error}");
    }
}

/// The compiler has accepted them when they are ready.
#[tokio::test]
async fn modules_in_typescript_are_formatted_and_typed() {
    if let Err(error) = TypeScript::get().await.check().await {
        panic!("{error}");
    }
}
