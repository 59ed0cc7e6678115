//! See the library of this package, which has everything: it is also linked into a second program,
//! in which rpc-runtime has the features for observability.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_bench::run().await
}
