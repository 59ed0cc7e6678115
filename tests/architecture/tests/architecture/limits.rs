//! The table of limits in `docs/protocol.md` has the values of the constants.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::{BinOp, Expr, ExprCall, Item, ItemConst, Lit};

use crate::root;

/// A constant: its file in `rpc-runtime/src`, its name, and its value for one of the unit that the
/// table has.
type Constant = (&'static str, &'static str, u64);

/// The first column of each row, and the constants of its numbers.
const LIMITS: &[(&str, &[Constant])] = &[
    (
        "a request's body",
        &[("broker/builder.rs", "DEFAULT_MAX_BYTES", MIB)],
    ),
    (
        "a reply's body",
        &[("broker/builder.rs", "DEFAULT_MAX_BYTES", MIB)],
    ),
    (
        "`correlation_id`, `type`, `reply_to` and other short strings",
        &[("protocol/short_str.rs", "MAX_SHORT_STR", 1)],
    ),
    (
        "`expiration`",
        &[("protocol/request.rs", "MAX_TIME_TO_LIVE", MILLISECOND)],
    ),
    (
        "the nesting of headers",
        &[("protocol/malformed.rs", "MAX_HEADER_DEPTH", 1)],
    ),
    (
        "all properties together",
        &[("transport/amqp/connection/address.rs", "DEFAULT_MAX_FRAME", KIB)],
    ),
    (
        "`x-death` of a malformed message",
        &[("transport/amqp/guard/content.rs", "MAX_DEATH_BYTES", KIB)],
    ),
    (
        "headers that this library's callers send of their own",
        &[("protocol/user_header.rs", "MAX_BYTES", 1)],
    ),
    (
        "the message of a `bad_request`",
        &[("protocol/fault.rs", "MAX_REASON", 1)],
    ),
    (
        "rejections of a one-way request",
        &[("server/request_handler.rs", "MAX_REJECTIONS", 1)],
    ),
    (
        "deliveries of an `idempotent` request",
        &[("transport/topology.rs", "DEFAULT_DELIVERY_LIMIT", 1)],
    ),
    (
        "answered requests that a worker recognizes when they come again",
        &[("service/deduplicator.rs", "MAX_ENDED", 1)],
    ),
    (
        "cancelled ids that a worker remembers",
        &[("service/cancellation.rs", "MAX_REMEMBERED", 1)],
    ),
    (
        "calls in a cancellation",
        &[("protocol/batch/message.rs", "MAX_BATCH_CALLS", 1)],
    ),
    (
        "calls or replies in a batch",
        &[("protocol/batch/message.rs", "MAX_BATCH_CALLS", 1)],
    ),
    (
        "a batch as this library writes it",
        &[("protocol/batch/message.rs", "MAX_BATCH_BYTES", KIB)],
    ),
    (
        "a batch of several parts as it is read",
        &[("protocol/batch/message.rs", "MAX_READ_BYTES", KIB)],
    ),
    (
        "a call or reply that is batched",
        &[("protocol/batch/message.rs", "MAX_PART_BYTES", KIB)],
    ),
    (
        "the headers of a call or reply in a batch",
        &[("protocol/batch/message.rs", "MAX_READ_HEADERS", KIB)],
    ),
    (
        "`rpc-delay`",
        &[
            ("protocol/job.rs", "MAX_DELAY", MILLISECOND),
            ("protocol/job.rs", "MAX_DELAY", DAY),
        ],
    ),
    (
        "broadcasts that run in a worker, or wait",
        &[
            ("server/control/broadcasts.rs", "MAX_RUNNING", 1),
            ("server/control/broadcasts.rs", "MAX_BROADCASTS", 1),
        ],
    ),
    (
        "a broadcast's body",
        &[("protocol/control.rs", "MAX_BROADCAST_BYTES", MIB)],
    ),
    (
        "the header `rpc-worker`",
        &[("protocol/control.rs", "MAX_WORKER_HEADER", 1)],
    ),
    ("items in a message", &[("protocol/stream.rs", "MAX_ITEMS", 1)]),
    ("grants in a message", &[("protocol/stream.rs", "MAX_GRANTS", 1)]),
    (
        "credit beyond what has arrived, as this library grants it",
        &[("protocol/stream.rs", "MAX_CREDIT", 1)],
    ),
    (
        "items that a method has not taken",
        &[("protocol/incoming.rs", "MAX_UNTAKEN_BYTES", MIB)],
    ),
    (
        "silence of a worker or caller in a stream",
        &[("client/streaming/inbox.rs", "MAX_SILENCE", SECOND)],
    ),
    (
        "priorities whose wait a worker measures",
        &[("server/queue_wait/estimates.rs", "MAX_PRIORITIES", 1)],
    ),
    (
        "heartbeats of this library's connections",
        &[("transport/amqp/connection/address.rs", "HEARTBEAT_SECONDS", 1)],
    ),
];

/// Limits of which no constant of the runtime has the value: the tests of the codecs check it.
const WITHOUT_CONSTANT: &[&str] = &[
    "the nesting of values in MessagePack and JSON",
    "arrays and maps in MessagePack, as the packages for Python and TypeScript read it",
];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
// Durations are evaluated in milliseconds.
const MILLISECOND: u64 = 1;
const SECOND: u64 = 1000;
const DAY: u64 = 24 * 60 * 60 * SECOND;

#[test]
fn the_limits_in_the_protocol_are_those_of_the_code() {
    let mut rows = documented();
    for name in WITHOUT_CONSTANT {
        assert!(rows.remove(*name).is_some(), "the table has no row {name:?}");
    }
    for (name, constants) in LIMITS {
        let documented = rows
            .remove(*name)
            .unwrap_or_else(|| panic!("the table has no row {name:?}"));
        let actual: Vec<_> = constants
            .iter()
            .map(|(file, constant, unit)| {
                let value = Constants::of(file).value(constant);
                assert_eq!(value % unit, 0, "{constant} in units of {unit}");
                value / unit
            })
            .collect();
        assert_eq!(
            documented, actual,
            "{name:?} in docs/protocol.md, and {constants:?}"
        );
    }
    assert!(rows.is_empty(), "rows without a constant: {rows:?}");
}

/// Returns the numbers of each row, by its first column.
fn documented() -> BTreeMap<String, Vec<u64>> {
    let page = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let (_, section) = page.split_once("\n## Limits\n").expect("there is a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let name = cells.next().unwrap_or_default().to_owned();
        (name, numbers(cells.next().unwrap_or_default()))
    })
    .collect()
}

fn numbers(text: &str) -> Vec<u64> {
    let text = text.replace(',', "");
    let digits = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty());
    digits.map(|digits| digits.parse().unwrap()).collect()
}

/// The constants at the top of a file.
struct Constants(Vec<ItemConst>);

impl Constants {
    fn of(file: &str) -> Self {
        let path = root().join("rpc-runtime/src").join(Path::new(file));
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let items = syn::parse_file(&source).unwrap().items.into_iter();
        let constants = items.filter_map(|item| match item {
            Item::Const(constant) => Some(constant),
            _ => None,
        });
        Self(constants.collect())
    }

    fn value(&self, name: &str) -> u64 {
        let constant = self.0.iter().find(|constant| constant.ident == name);
        self.evaluate(
            &constant
                .unwrap_or_else(|| panic!("there is no constant {name}"))
                .expr,
        )
    }

    /// Evaluates an expression of numbers and durations.
    fn evaluate(&self, expression: &Expr) -> u64 {
        match expression {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(number) => number.base10_parse().unwrap(),
                _ => panic!("a literal that is no number"),
            },
            Expr::Paren(inner) => self.evaluate(&inner.expr),
            Expr::Cast(cast) => self.evaluate(&cast.expr),
            Expr::Binary(binary) => {
                let (left, right) = (self.evaluate(&binary.left), self.evaluate(&binary.right));
                match binary.op {
                    BinOp::Mul(_) => left * right,
                    BinOp::Add(_) => left + right,
                    BinOp::Shl(_) => left << right,
                    _ => panic!("an unknown operator"),
                }
            }
            Expr::Path(path) => match last(&path.path).as_str() {
                "MAX" => u64::from(u32::MAX),
                name => self.value(name),
            },
            Expr::Call(call) => self.duration(call),
            _ => panic!("an unknown expression"),
        }
    }

    /// Evaluates `Duration::from_..(number)`, in milliseconds.
    fn duration(&self, call: &ExprCall) -> u64 {
        let Expr::Path(function) = &*call.func else {
            panic!("a call of no function");
        };
        let number = self.evaluate(&call.args[0]);
        match last(&function.path).as_str() {
            "from_millis" => number,
            "from_secs" => number * SECOND,
            other => panic!("an unknown function: {other}"),
        }
    }
}

fn last(path: &syn::Path) -> String {
    path.segments
        .last()
        .expect("a path has a segment")
        .ident
        .to_string()
}
