//! Faults of `#[service(..)]`.

use super::assert_arguments;

#[test]
fn unknown_service_option() {
    assert_arguments(
        r#"queu = "a""#,
        &[(
            "queu",
            "unknown option `queu`; did you mean `queue`? the options of a service are: `queue`, `crate`, `schema`",
        )],
    );
}

#[test]
fn misplaced_service_option() {
    assert_arguments(
        r#"timeout = "2s""#,
        &[("timeout", "`timeout` is an option of a method, not of a service")],
    );
}

#[test]
fn service_option_twice() {
    assert_arguments(
        r#"queue = "a", queue = "b""#,
        &[("queue", "option `queue` is given twice; remove one")],
    );
}

#[test]
fn queue_without_value() {
    assert_arguments(
        "queue",
        &[("queue", r#"`queue` needs a value; write `queue = "rpc_queue"`"#)],
    );
}

#[test]
fn queue_not_a_string() {
    assert_arguments(
        "queue = orders",
        &[("orders", r#"`queue` takes a string; write `queue = "rpc_queue"`"#)],
    );
}

#[test]
fn queue_in_parentheses() {
    assert_arguments(
        r#"queue("orders")"#,
        &[("(", "options take their value after `=`; write `queue = ..`")],
    );
}

#[test]
fn queue_name_alone() {
    assert_arguments(
        r#""orders""#,
        &[(
            r#""orders""#,
            r#"expected an option; write `queue = "rpc_queue"`"#,
        )],
    );
}

#[test]
fn queue_empty() {
    assert_arguments(
        r#"queue = """#,
        &[(
            r#""""#,
            "a queue name cannot be empty; remove `queue` to use the name of the trait",
        )],
    );
}

#[test]
fn queue_reserved() {
    assert_arguments(
        r#"queue = "amq.orders""#,
        &[(
            r#""amq.orders""#,
            "queue names starting with `amq.` are reserved by RabbitMQ; choose another prefix",
        )],
    );
}

#[test]
fn queue_of_the_runtime() {
    for (name, message) in [
        (
            "rpc.orders",
            "queue names starting with `rpc.` are reserved for the runtime; choose another prefix",
        ),
        (
            "orders.batch",
            "queue names ending with `.batch` are reserved for the runtime; choose another suffix",
        ),
        (
            "or\\nders",
            "a queue name cannot contain control characters; write a printable one",
        ),
    ] {
        assert_arguments(
            &format!("queue = \"{name}\""),
            &[(&format!("\"{name}\""), message)],
        );
    }
}

#[test]
fn crate_without_value() {
    assert_arguments(
        "crate",
        &[(
            "crate",
            "`crate` needs a value; write `crate = path::to::rpc_runtime`",
        )],
    );
}

#[test]
fn crate_not_a_path() {
    assert_arguments(
        r#"crate = "rpc_runtime""#,
        &[(
            r#""rpc_runtime""#,
            "`crate` takes a path; write `crate = path::to::rpc_runtime`",
        )],
    );
}

#[test]
fn options_not_separated() {
    assert_arguments(r#"queue = "a" crate = b"#, &[("crate", "expected `,`")]);
}

#[test]
fn queue_name_too_long() {
    let name = "n".repeat(256);
    let message =
        "a queue name is at most 255 bytes long; write a shorter one with `#[service(queue = \"..\")]`";
    assert_arguments(
        &format!("queue = \"{name}\""),
        &[(&format!("\"{name}\""), message)],
    );
}
