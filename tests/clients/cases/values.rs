//! Values of every type, at their limits, which come back as they were.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rpc_conformance::{
    Address, Color, Command, Containers, Direction, Event, Marker, Numbers, Page, Pair, Person, Scalar,
    Shape, Tree, UserId,
};
use rpc_runtime::{CallError, Codec, Executed};

use super::{Caller, echo};

/// Text that encoders get wrong: quotes, controls, a terminator, line separators of JavaScript, the
/// last character of the basic plane, and others beyond it.
pub(super) const TEXTS: [&str; 9] = [
    "",
    "a",
    "na\u{ef}ve \u{20ac}",
    "\0 in a\0text\0",
    "\"quotes\" \\ / \u{8}\u{c}\n\r\t\u{1f}\u{7f}",
    "\u{2028}\u{2029}",
    "\u{fffd}\u{ffff}\u{feff}",
    "\u{1d11e}\u{1f980}\u{10ffff}",
    "e\u{301}\u{1f469}\u{200d}\u{1f52c}",
];

pub(super) async fn text(caller: &Caller) -> Result<()> {
    let long = "\u{20ac}\u{1f980}x".repeat(20_000);
    for value in TEXTS.into_iter().chain([&*long]) {
        let back = caller.client.echo_text(value).await?;
        ensure!(back == value, "{value:?} came back as {back:?}");
    }
    Ok(())
}

pub(super) async fn bytes(caller: &Caller) -> Result<()> {
    let all: Vec<u8> = (0..=255).collect();
    for value in [Vec::new(), vec![0], vec![255; 300], all.clone(), all.repeat(300)] {
        let back = caller.client.echo_bytes(&value).await?;
        ensure!(back == value, "{} bytes came back as {}", value.len(), back.len());
    }
    Ok(())
}

pub(super) async fn character(caller: &Caller) -> Result<()> {
    let values = ['a', '\0', '"', '\u{df}', '\u{ffff}', '\u{1d11e}', char::MAX];
    echo!(caller, echo_char, values);
    Ok(())
}

pub(super) async fn truth(caller: &Caller) -> Result<()> {
    echo!(caller, echo_bool, [true, false]);
    Ok(())
}

pub(super) async fn unit(caller: &Caller) -> Result<()> {
    caller.client.echo_unit(()).await?;
    Ok(())
}

/// The limits of an integer's type, and what lies between the forms of MessagePack and beside 2^53.
macro_rules! integers {
    ($($name:ident: $method:ident;)*) => {
        $(
            pub(super) async fn $name(caller: &Caller) -> Result<()> {
                let bounds = [7, 8, 15, 16, 31, 32, 53, 63, 64, 100, 126, 127];
                let mut values = vec![$name::MIN, 0, 1, $name::MAX];
                for bound in bounds {
                    let power = 1_i128.checked_shl(bound).unwrap_or_default();
                    for near in [power.wrapping_sub(1), power, power.wrapping_add(1)] {
                        values.extend($name::try_from(near));
                        values.extend($name::try_from(near.wrapping_neg()));
                    }
                }
                values.extend((-33..-31).chain(127..129).filter_map(|it| $name::try_from(it).ok()));
                echo!(caller, $method, values);
                Ok(())
            }
        )*
    };
}

integers! {
    i8: echo_i8;
    i16: echo_i16;
    i32: echo_i32;
    i64: echo_i64;
    i128: echo_i128;
    u8: echo_u8;
    u16: echo_u16;
    u32: echo_u32;
    u64: echo_u64;
    u128: echo_u128;
}

pub(super) async fn f32(caller: &Caller) -> Result<()> {
    let least = f32::from_bits(1);
    let limits = [f32::MAX, f32::MIN, f32::MIN_POSITIVE, least, f32::EPSILON];
    for value in [0.0, -0.0, 1.0, -1.5, 0.1, 16_777_216.0]
        .into_iter()
        .chain(limits)
    {
        let back = caller.client.echo_f32(value).await?;
        ensure!(
            back.to_bits() == value.to_bits(),
            "{value:?} came back as {back:?}"
        );
    }
    Ok(())
}

pub(super) async fn f64(caller: &Caller) -> Result<()> {
    let least = f64::from_bits(1);
    let limits = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, least, f64::EPSILON];
    let others = [0.1, 1.0 / 3.0, 1e21, 1e-7, 9_007_199_254_740_993.0, 1e300];
    for value in [0.0, -0.0, 1.0, -1.5].into_iter().chain(others).chain(limits) {
        let back = caller.client.echo_f64(value).await?;
        ensure!(
            back.to_bits() == value.to_bits(),
            "{value:?} came back as {back:?}"
        );
    }
    Ok(())
}

/// JSON has none of them, so nothing is sent.
pub(super) async fn not_finite_numbers(caller: &Caller) -> Result<()> {
    for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        let outcome = caller.client.echo_f64(value).await;
        if caller.codec == Codec::Json {
            let is_refused = matches!(
                &outcome,
                Err(error @ CallError::Encode(_)) if error.executed() == Executed::No
            );
            ensure!(is_refused, "{value}: {outcome:?}");
            continue;
        }
        let back = outcome?;
        ensure!(
            back == value || (back.is_nan() && value.is_nan()),
            "{value} came back as {back}"
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "they have the same values in both"
        )]
        let value = value as f32;
        let back = caller.client.echo_f32(value).await?;
        ensure!(
            back == value || (back.is_nan() && value.is_nan()),
            "{value} came back as {back}"
        );
    }
    Ok(())
}

pub(super) async fn numbers(caller: &Caller) -> Result<()> {
    let greatest = Numbers {
        i8: i8::MAX,
        i16: i16::MAX,
        i32: i32::MAX,
        i64: i64::MAX,
        i128: i128::MAX,
        u8: u8::MAX,
        u16: u16::MAX,
        u32: u32::MAX,
        u64: u64::MAX,
        u128: u128::MAX,
        f32: f32::MAX,
        f64: f64::MAX,
    };
    let least = Numbers {
        i8: i8::MIN,
        i16: i16::MIN,
        i32: i32::MIN,
        i64: i64::MIN,
        i128: i128::MIN,
        f32: f32::MIN,
        f64: f64::MIN,
        ..Numbers::default()
    };
    echo!(caller, echo_numbers, [greatest, least, Numbers::default()]);
    Ok(())
}

pub(super) async fn containers(caller: &Caller) -> Result<()> {
    let full = Containers {
        maybe: Some(Some(u32::MAX)),
        lists: vec![vec![], vec!["a".into(), String::new()]],
        holes: vec![None, Some(true), None, Some(false)],
        tuple: (255, "\u{1f980}".into(), Some(true)),
        array: [i16::MIN, 0, i16::MAX],
        by_name: [("".into(), UserId(0)), ("__proto__".into(), UserId(u64::MAX))].into(),
        by_number: [(0, vec![]), (u32::MAX, vec!["max".into()])].into(),
        by_signed: [(i64::MIN, true), (-1, false), (i64::MAX, true)].into(),
        bytes: (0..=255).collect(),
        character: '\u{1d11e}',
        nothing: (),
    };
    let empty = Containers {
        maybe: None,
        lists: vec![],
        holes: vec![],
        tuple: (0, String::new(), None),
        array: [0; 3],
        by_name: BTreeMap::new(),
        by_number: BTreeMap::new(),
        by_signed: BTreeMap::new(),
        bytes: vec![],
        character: ' ',
        nothing: (),
    };
    echo!(caller, echo_containers, [full, empty]);
    Ok(())
}

/// A person with everything, who was invited by one with only what is necessary.
pub(super) fn person_named(name: &str) -> Person {
    let inviting = Person {
        id: UserId(u64::MAX),
        full_name: String::new(),
        born_on: "1969-12-31".into(),
        home: Address {
            street: "Road 1".into(),
            zip_code: None,
            class: None,
        },
        invited_by: None,
        favourite: Color::default(),
        nick_names: vec![],
    };
    Person {
        id: UserId(1),
        full_name: name.into(),
        born_on: "2000-02-29".into(),
        home: Address {
            street: "Stra\u{df}e 2".into(),
            zip_code: Some("01234".into()),
            class: Some("first".into()),
        },
        invited_by: Some(Box::new(inviting)),
        favourite: Color::DarkBlue,
        nick_names: vec!["al".into(), "\u{1f980}".into()],
    }
}

pub(super) async fn person(caller: &Caller) -> Result<()> {
    let mut ancestors = person_named("0");
    for number in 1..10 {
        let mut next = person_named(&number.to_string());
        next.invited_by = Some(Box::new(ancestors));
        ancestors = next;
    }
    echo!(caller, echo_person, [person_named("Alice"), ancestors]);
    Ok(())
}

pub(super) async fn page(caller: &Caller) -> Result<()> {
    let empty = Page {
        items: vec![],
        next: None,
    };
    let items = vec![person_named("Alice"), person_named("Bob")];
    echo!(
        caller,
        echo_page,
        [
            empty,
            Page {
                items,
                next: Some(u64::MAX)
            }
        ]
    );
    Ok(())
}

pub(super) async fn tree(caller: &Caller) -> Result<()> {
    let leaf = |value| Tree {
        value,
        children: vec![],
    };
    let wide = Tree {
        value: 0,
        children: (0..1000).map(leaf).collect(),
    };
    let mut deep = leaf(i64::MIN);
    for value in 0..40 {
        deep = Tree {
            value,
            children: vec![deep],
        };
    }
    echo!(caller, echo_tree, [leaf(i64::MAX), wide, deep]);
    Ok(())
}

pub(super) async fn user_id(caller: &Caller) -> Result<()> {
    echo!(caller, echo_user_id, [UserId(0), UserId(u64::MAX)]);
    Ok(())
}

pub(super) async fn pair(caller: &Caller) -> Result<()> {
    echo!(caller, echo_pair, [Pair(0, String::new()), Pair(255, "b".into())]);
    Ok(())
}

pub(super) async fn marker(caller: &Caller) -> Result<()> {
    echo!(caller, echo_marker, [Marker]);
    Ok(())
}

pub(super) async fn color(caller: &Caller) -> Result<()> {
    echo!(caller, echo_color, [Color::Red, Color::Green, Color::DarkBlue]);
    Ok(())
}

pub(super) async fn direction(caller: &Caller) -> Result<()> {
    let all = [
        Direction::North,
        Direction::East,
        Direction::South,
        Direction::West,
    ];
    echo!(caller, echo_direction, all);
    Ok(())
}

/// One shape of each kind.
pub(super) fn shapes() -> Vec<Shape> {
    let rectangle = |fill| Shape::Rectangle {
        width: 1.0,
        height: -0.5,
        fill,
    };
    vec![
        Shape::Nothing,
        Shape::Circle(0.1),
        Shape::Owned(person_named("Alice")),
        Shape::Line((0.0, 1.0), (-1.0, 1e300)),
        rectangle(None),
        rectangle(Some(Color::Green)),
        Shape::Group(vec![]),
        Shape::Group(vec![Shape::Nothing, Shape::Group(vec![Shape::Circle(2.0)])]),
    ]
}

pub(super) async fn shape(caller: &Caller) -> Result<()> {
    echo!(caller, echo_shape, shapes());
    Ok(())
}

pub(super) async fn event(caller: &Caller) -> Result<()> {
    let joined = |zip_code: Option<String>| {
        Event::Joined(Address {
            street: "Road 1".into(),
            class: zip_code.clone(),
            zip_code,
        })
    };
    let moved = Event::Moved {
        x: i32::MIN,
        y: i32::MAX,
    };
    echo!(
        caller,
        echo_event,
        [Event::Started, joined(None), joined(Some("1".into())), moved]
    );
    Ok(())
}

pub(super) async fn command(caller: &Caller) -> Result<()> {
    let say = |times| Command::Say {
        text: "hello".into(),
        times,
    };
    let others = [
        Command::Stop,
        Command::Wait(u64::MAX),
        Command::Go(i32::MIN, i32::MAX),
    ];
    echo!(
        caller,
        echo_command,
        others.into_iter().chain([say(None), say(Some(255))])
    );
    Ok(())
}

pub(super) async fn scalar(caller: &Caller) -> Result<()> {
    let numbers = [i64::MIN, 0, i64::MAX].map(Scalar::Number);
    let others = [
        Scalar::Text(String::new()),
        Scalar::Text("7".into()),
        Scalar::Both(true, "b".into()),
        Scalar::Named { name: "n".into() },
        Scalar::Nothing,
    ];
    echo!(caller, echo_scalar, numbers.into_iter().chain(others));
    Ok(())
}

pub(super) async fn option(caller: &Caller) -> Result<()> {
    echo!(caller, echo_option, [None, Some(0), Some(u64::MAX)]);
    Ok(())
}

pub(super) async fn list(caller: &Caller) -> Result<()> {
    for value in [vec![], vec![i64::MIN, 0, i64::MAX], (0..5000).collect()] {
        let back = caller.client.echo_list(&value).await?;
        ensure!(back == value, "{value:?} came back as {back:?}");
    }
    Ok(())
}

pub(super) async fn tuple(caller: &Caller) -> Result<()> {
    echo!(
        caller,
        echo_tuple,
        [(0, String::new()), (u64::MAX, "b".to_owned())]
    );
    Ok(())
}

pub(super) async fn map(caller: &Caller) -> Result<()> {
    let named: BTreeMap<String, u64> = TEXTS
        .into_iter()
        .chain(["__proto__", "constructor", "1", "-0"])
        .map(|name| (name.to_owned(), u64::MAX))
        .collect();
    echo!(caller, echo_map, [BTreeMap::new(), named]);
    Ok(())
}

pub(super) async fn numbered(caller: &Caller) -> Result<()> {
    let numbers = [0, 1, 127, 128, (1 << 53) + 1, u64::MAX];
    let numbered: BTreeMap<u64, String> = numbers.into_iter().map(|it| (it, it.to_string())).collect();
    echo!(caller, echo_numbered, [BTreeMap::new(), numbered]);
    Ok(())
}
