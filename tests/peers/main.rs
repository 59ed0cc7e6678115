//! What authors of peers read: the programs on the pages in `docs/peers` call a service in Rust,
//! and are called by one; and tables of `docs/protocol.md`.

mod calls;
mod directory;
mod go;
mod node;
mod pages;
mod protocol;
mod python;
mod spring;

use crate::calls::PRINTED;
use crate::pages::{blocks, page};

/// The code of a page, without its indentation.
fn flush_left(code: &str) -> String {
    code.lines().map(|line| line.trim().to_owned() + "\n").collect()
}

#[test]
fn the_rust_code_of_the_pages_is_tested() {
    let tested = flush_left(&[include_str!("directory.rs"), include_str!("calls.rs")].concat());
    let page = page("README.md");
    let blocks = blocks(&page, "rust");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert!(tested.contains(&flush_left(block)), "no test contains:\n{block}");
    }
}

#[test]
fn the_pages_say_what_the_programs_print() {
    for name in [
        "aio-pika.md",
        "amqp091-go.md",
        "amqplib.md",
        "faststream.md",
        "nestjs.md",
    ] {
        assert_eq!(blocks(&page(name), "text"), [PRINTED], "{name}");
    }
}
