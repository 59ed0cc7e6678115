#!/usr/bin/env bash
# Measures how long a service of 100 methods takes to compile, with rpc-runtime and with tarpc.
#
#   benches/compile_time.sh [ROUNDS]     three rounds by default
#
# Creates two crates in a temporary directory. Each has the trait, an implementation that is served,
# and a caller of all methods, used so that the compiler must generate code for all of it. Builds
# their dependencies, then times `cargo build` of the crate alone: clean, and after a change of its
# only file (incremental). Rounds alternate. Prints the medians. Needs crates.io for tarpc.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rounds=${1:-3}
work=$(mktemp -d "${TMPDIR:-/tmp}/rpc-compile-time-XXXXXX")
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=$work/target

# Prints the hundred methods, which are the same for both; $1 is `self` and the context.
methods() {
    for i in $(seq 100); do
        case $((i % 4)) in
            0) printf '    async fn m%s(%sid: u64, name: String) -> Result<String, String>%s\n' "$i" "$1" "$2" ;;
            1) printf '    async fn m%s(%sitem: Item) -> Item%s\n' "$i" "$1" "$2" ;;
            2) printf '    async fn m%s(%sitems: Vec<Item>, limit: Option<u32>) -> Vec<Item>%s\n' "$i" "$1" "$2" ;;
            3) printf '    async fn m%s(%s) -> u64%s\n' "$i" "$1" "$2" ;;
        esac
    done
}

# Prints a call of each method; $1 is the context.
calls() {
    for i in $(seq 100); do
        case $((i % 4)) in
            0) printf '    let _ = client.m%s(%s7, String::new()).await;\n' "$i" "$1" ;;
            1) printf '    let _ = client.m%s(%sitem.clone()).await;\n' "$i" "$1" ;;
            2) printf '    let _ = client.m%s(%svec![item.clone()], None).await;\n' "$i" "$1" ;;
            3) printf '    let _ = client.m%s(%s).await;\n' "$i" "$1" ;;
        esac
    done
}

crate() { # name, dependency, imports, attribute, self in the trait and in the implementation, context of a call
    mkdir -p "$work/$1/src"
    cat > "$work/$1/Cargo.toml" <<END
[package]
name = "$1"
version = "0.0.0"
edition = "2024"

[dependencies]
$2
serde = { version = "1", features = ["derive"] }

[workspace]
END
    cat > "$work/$1/src/lib.rs" <<END
#![allow(unused)]
$3
use std::future::Future;
use std::pin::Pin;

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Item {
    pub id: u64,
    pub name: String,
}

$4
pub trait Hundred {
$(methods "$5" ';')
}

#[derive(Clone)]
pub struct Worker;

impl Hundred for Worker {
$(methods "$6" ' { unimplemented!() }')
}

async fn call_all(client: HundredClient, item: Item) {
$(calls "$7")
}

pub fn calls(client: HundredClient, item: Item) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(call_all(client, item))
}
END
    cat >> "$work/$1/src/lib.rs"
}

crate ours "rpc-runtime = { path = \"$root/rpc-runtime\" }" 'use rpc_runtime::service;' '#[service]' '&self, ' '&self, ' '' <<'END'

pub fn server() -> Box<dyn rpc_runtime::Service> {
    Box::new(HundredServer::new(Worker))
}
END
crate theirs 'tarpc = { version = "0.38", features = ["serde1"] }' 'use tarpc::context::{self, Context}; use tarpc::server::Serve;' \
    '#[tarpc::service]' '' 'self, _: Context, ' 'context::current(), ' <<'END'

pub fn serve(request: HundredRequest) -> Pin<Box<dyn Future<Output = Result<HundredResponse, tarpc::ServerError>> + Send>> {
    Box::pin(Worker.serve().serve(context::current(), request))
}
END

build() {
    (cd "$work/$1" && cargo build --quiet)
}

timed() {
    local begun ended
    begun=$(date +%s%N)
    build "$1"
    ended=$(date +%s%N)
    printf '%s\n' $(((ended - begun) / 1000000))
}

for name in ours theirs; do build "$name"; done
for round in $(seq "$rounds"); do
    for name in ours theirs; do
        (cd "$work/$name" && cargo clean --quiet --package "$name")
        timed "$name" >> "$work/$name.clean"
        printf '// round %s\n' "$round" >> "$work/$name/src/lib.rs"
        timed "$name" >> "$work/$name.incremental"
    done
done

median() { sort -n "$1" | sed -n "$(((rounds + 1) / 2))p"; }
printf '%-8s %10s %12s\n' '' 'clean' 'incremental'
for name in ours theirs; do
    printf '%-8s %7s ms %9s ms\n' "$name" "$(median "$work/$name.clean")" "$(median "$work/$name.incremental")"
done
